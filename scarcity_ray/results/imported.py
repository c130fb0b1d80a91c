"""Digests of the files that a scenario imports (`{kind: import, path: ...}`): if they change, results may change."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path


def sources(paths: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 of the source files behind import paths, as `my.mod:MyStrategy`: module -> digest, sorted by name.

    Covered: the module, its parent packages, and what these import by name from the same top-level package or the same folder,
    recursively. Not covered: modules that are loaded in other ways, data files, and installed packages. For an installed module
    (site-packages, the standard library), only its own file is covered. The digest is None if the module has no source file
    (built-in, compiled) or is not found. The modules should be imported already; a file that changed since then is read as it is now.
    """
    found: dict[str, str | None] = {}
    for name in dict.fromkeys(path.partition(":")[0] for path in paths):
        file = _file(name)
        if file is None or _is_installed(file):
            found[name] = _digest(file)
        else:
            found |= {module: _digest(source) for module, source in _together(name, file).items()}
    return dict(sorted(found.items()))


def _file(name: str) -> Path | None:
    """A module's source file."""
    try:
        spec = getattr(sys.modules.get(name), "__spec__", None) or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin).resolve() if origin is not None and origin.endswith(".py") else None


def _is_installed(file: Path) -> bool:
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return bool({"site-packages", "dist-packages"} & {*file.parts}) or any(folder in file.parents for folder in folders)


def _together(name: str, file: Path) -> dict[str, Path]:
    """The module and all that it imports from its own folder, recursively: name -> file."""
    place = file.parent if file.name == "__init__.py" else file
    folder = place.parents[name.count(".")]
    found, waiting = {name: file}, [name, *_parents(name)]
    for module in waiting:  # the loop appends to it
        source = found.get(module) or _beside(folder, module)
        if source is None:
            continue
        found[module] = source
        for other in _imports(module, source):
            if other not in waiting and other.partition(".")[0] != "scarcity_ray":  # COMPUTING_VERSION covers that package
                waiting.append(other)
    return found


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _beside(folder: Path, name: str) -> Path | None:
    plain = folder.joinpath(*name.split("."))
    return next((path for path in (plain / "__init__.py", plain.with_name(f"{plain.name}.py")) if path.is_file()), None)


def _imports(module: str, file: Path) -> Iterator[str]:
    """The modules that a module may import: each named module, its parent packages, and each name taken from it, which may be a
    module too."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            yield from (*_parents(name), name)


def _digest(file: Path | None) -> str | None:
    try:
        return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None
