"""Fingerprints of code: what makes a cached result stale when the code behind a node changes."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OURS = ("components", "modules", "configs", "serving")
_LIBRARIES = ("keras", "pillow", "tensorflow", "tensorflow-transform", "tfx")


def code_fingerprint(*modules: str) -> str:
    """Return a hash of modules' source, of our modules that they import, directly or not, and of the libraries' versions.

    Args:
      modules: dotted names of modules of this project, e.g. `modules.trainer`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(import_closure(*modules).items()):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    for library, version in versions().items():
        digest.update(f"{library}=={version}\n".encode())
    return digest.hexdigest()


def project_fingerprint() -> str:
    """Return a hash of all of this project's source that a run depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for room in (*_OURS, "pipeline") for path in (_ROOT / room).rglob("*.py")):
        digest.update(f"{path.relative_to(_ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions(*others: str) -> dict[str, str]:
    """Return the versions of the libraries that results depend on.

    Args:
      others: libraries to name as well.
    """
    return {library: importlib.metadata.version(library) for library in (*_LIBRARIES, *others)}


def file_fingerprint(path: str) -> str:
    """Return the SHA-256 of a file's content, on this machine or wherever TFX reads."""
    from tfx.dsl.io import fileio  # workers that are compared need none of it

    digest = hashlib.sha256()
    with fileio.open(path, "rb") as opened:
        while block := opened.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def import_closure(*modules: str) -> dict[str, Path]:
    """Return the files of modules and of all modules of this project that they import, by dotted name.

    Args:
      modules: dotted names of modules of this project.
    """
    found: dict[str, Path] = {}
    pending = [*modules]
    while pending:
        name = pending.pop()
        path = _source(name)
        if name in found or path is None:
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                pending += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                pending += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _source(name: str) -> Path | None:
    """The file of a module of this project; None for anything else."""
    parts = name.split(".")
    if parts[0] not in _OURS:
        return None
    file = _ROOT.joinpath(*parts)
    for path in (file.with_suffix(".py"), file / "__init__.py"):
        if path.is_file():
            return path
    return None
