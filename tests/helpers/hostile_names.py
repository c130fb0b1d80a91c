"""A table whose clients have names that try to be more than text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = "<script>document.title='taken'</script>"
TURNED = "north\u202eeciffo"
LONG = "clinic " + "x" * 10_000
NAMES = [SCRIPT, TURNED, LONG, "</script><img src=x onerror=alert(1)>", "a\"b'c&amp;d", "{{ 7 * 7 }}", "عيادة", "plain", "`rm -rf`"]


def table(folder: Path) -> dict[str, Any]:
    """The data section of a scenario: two classes, nine clients with 8 to 40 rows."""
    draw, rows = np.random.default_rng(1), ["site,dose,age,outcome"]
    for place, name in enumerate(NAMES):
        quoted = name.replace('"', '""')
        for _ in range(8 + 4 * place):
            dose, age = draw.normal(size=2)
            rows.append(f'"{quoted}",{dose},{age},{("no", "yes")[int(3 * dose - age + 0.3 * draw.normal() > 0.3)]}')
    (folder / "rows.csv").write_text("\n".join(rows), encoding="utf-8")
    source = {"kind": "table", "path": str(folder / "rows.csv"), "label": "outcome", "client": "site", "delimiter": ","}
    return {"source": source, "test_fraction": 0.5}
