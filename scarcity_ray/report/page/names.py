"""Names from a user's data as the page shows them: whatever they hold, they are short, visible text."""

from __future__ import annotations

import unicodedata

LONGEST = 60
"""Letters of a name in tables and lists."""

_TURNS = frozenset(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C))
"""Marks that turn the direction of what follows: a name with them can look like another one."""


def shown(name: str, longest: int = LONGEST) -> str:
    """A name with unseen marks written out, as `U+202E`, and its middle left out where it is longer than `longest`."""
    seen = "".join(_visible(letter) for letter in name[: 2 * longest] + name[max(2 * longest, len(name) - longest) :])
    if len(name) <= longest and len(seen) <= longest:
        return seen
    end = longest // 4
    return f"{seen[: longest - end - 1]}…{seen[-end:]}"


def _visible(letter: str) -> str:
    hidden = letter in _TURNS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp", "Cn", "Co")
    return f"[U+{ord(letter):04X}]" if hidden else letter
