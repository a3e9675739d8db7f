"""What names and links of files say, for ingestion and for the command line alike; imports nothing heavy."""

from __future__ import annotations

import os

_PASSED_OVER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is passed over without a word."""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def is_local(uri: str) -> bool:
    """Return whether a location has no scheme such as `gs://`: only such locations have links."""
    return "://" not in uri


def leads_outside(root: str, path: str) -> bool:
    """Return whether a path below a root leaves it, by `..` or by a link.

    Args:
      root: a folder.
      path: as somebody wrote it, relative to the root.
    """
    normal = os.path.normpath(path)
    if os.path.isabs(path) or "://" in path or normal == ".." or normal.startswith("../"):
        return True
    return is_local(root) and not _is_below(os.path.realpath(os.path.join(root, path)), os.path.realpath(root))


def reason_of(error: Exception) -> str:
    """Return why something can't be read, in one line."""
    message = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return " ".join(str(message).split())


def printable(path: str) -> str:
    """Return a path that can be written as UTF-8."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
