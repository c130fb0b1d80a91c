"""How to get the same numbers again: commands, hashes, versions, and the scenario as it was played."""

from __future__ import annotations

from scarcity_ray.report.page.facts import Facts
from scarcity_ray.report.page.parts import Code, Column, Panel, Part, Table
from scarcity_ray.scenario import plain_yaml

_COMMANDS = """\
scarcity-ray verify RUN_DIR       # plays the run again and compares every bit
scarcity-ray run scenario.yaml    # the file below\
"""

_MOST = 24_000
"""Letters of a scenario that the page holds; a longer one is in the run's folder."""

_VERSIONS = ("python", "scarcity-ray", "torch", "numpy", "scipy", "scikit-learn", "pyarrow")


def reproduce(facts: Facts) -> Panel:
    """The commands first."""
    found, environment = facts.summary, facts.environment
    words = [
        f"The run started at {environment.get('started_at', 'an unknown time')} with seed {environment.get('seed')}"
        + (f" and {facts.seeds - 1} further ones" if facts.seeds > 1 else "")
        + ". The same scenario, data, versions and kind of processor give the same bits."
    ]
    if found.get("recovered"):
        words.append(f"Work was done again {found['recovered']:,} times because a process died; that changes no bit.")
    hashes = [[name, entry["status"], entry["result_hash"] or "-"] for name, entry in facts.entries.items()]
    parts: list[Part] = [
        Code("Commands", _COMMANDS),
        Table("Result hashes", [Column("strategy", True), Column("status", True), Column("SHA-256", True, code=True)], hashes),
        Table("What results depend on", [Column("what", True), Column("here", True)], _depends(facts)),
    ]
    text = plain_yaml.write(facts.scenario)
    if len(text) <= _MOST:
        parts.append(Code("The scenario as it was played (scenario.yaml)", text, folded=True))
    return Panel("reproduce", "How to reproduce this", words, parts)


def _depends(facts: Facts) -> list[list[str]]:
    environment = facts.environment
    versions = environment.get("versions") or {}
    git = environment.get("git") or {}
    rows = [["data (SHA-256)", str(environment.get("data", "-"))], ["program (SHA-256)", str(environment.get("source", "-"))]]
    rows += [["computing code, version", str(environment.get("computing", "-"))]]
    if git.get("revision"):
        rows.append(["revision", f"{git['revision']}{', changed' if git.get('modified') else ''}"])
    rows += [["versions", ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))]]
    return [*rows, ["processor", str((environment.get("cpu") or {}).get("model", "-"))]]
