"""The files below a folder, on any filesystem that TFX reads, with what their names and links say against them."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import NamedTuple

from components.image_example_gen import files, rejects
from components.image_example_gen.rejects import Reject

_PASSED_OVER = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle", "lost+found"),
    *("$recycle.bin", "recycler", "system volume information"),
}
_CONTAINERS = re.compile(
    r".*\.(?:(?:zipx?|z\d\d|7z|rar|r\d\d|tar|tgz|tbz2?|tb2|txz|tzst|tlz4?|taz|gz|bz2|xz|zst|lz4|lzma|lz|z|iso|cab|lzh|dmg)"
    r"(?:\.\d{3})?|tfrec.*|parquet|arrow|lmdb|mdb|h5|hdf5|npz)",
    re.DOTALL,
)
IN_A_CONTAINER = "may hold many pictures, and is not looked into: unpack it, or move it away"
_STATS_AT_ONCE = 512
_STAT_THREADS = 16


class FoundFile(NamedTuple):
    """A file: its path below the root, with `/`, its length in bytes and its modification time in nanoseconds."""

    path: str
    size: int
    modified: int


def walk(root: str) -> Iterator[FoundFile | Reject]:
    """List the files below a folder, sorted in each, with the names of one folder a level in memory.

    Hidden files and folders and the like of `Thumbs.db` are passed over.

    Args:
      root: the folder.

    Yields:
      Each file, or why it can't be taken: its name is not UTF-8, it leads outside the root, it can't be read.
    """
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        # As deep as folders lie, so no recursion.
        levels = [_entries(root, "", pool)]
        while levels:
            found = next(levels[-1], None)
            if found is None:
                levels.pop()
            elif not isinstance(found, str):
                yield found
            elif files.is_local(root) and os.path.islink(os.path.join(root, found)):
                yield _linked(root, found)
            else:
                levels.append(_entries(root, found, pool))


def stat_files(root: str, paths: Iterable[str]) -> Iterator[FoundFile | Reject]:
    """Look up files by their paths below a root, many at once, in order.

    Args:
      root: a folder.
      paths: below it, with `/`, and without `..`.

    Yields:
      Each file, or why it can't be taken.
    """
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        for found in _stat_all(root, paths, pool):
            if isinstance(found, str):
                yield Reject(found, rejects.UNREADABLE, "is a folder")
            else:
                yield found


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is passed over without a word."""
    return name.startswith(".") or name.lower() in _PASSED_OVER


def kind_of(name: str) -> str:
    """Return the ending of a file's name, in lower case, without the dot; empty if it has none."""
    ending = os.path.splitext(name)[1][1:].lower()
    return ending if len(ending) <= 20 else ""


def is_container(name: str) -> bool:
    """Return whether a file is an archive, records or arrays by its name, in which pictures may lie that nobody sees."""
    return _CONTAINERS.fullmatch(name.lower()) is not None


def is_taken_where_it_lies(root: str, link: str) -> bool:
    """Return whether a link leads to a folder below the root, on this machine, that is not passed over itself.

    Args:
      root: a folder.
      link: relative to the root.
    """
    if leads_outside(root, link):
        return False
    below = os.path.relpath(os.path.realpath(os.path.join(root, link)), os.path.realpath(root))
    return below == "." or not any(map(is_hidden, below.split(os.sep)))


def leads_outside(root: str, path: str) -> bool:
    """Return whether a path below a root leaves it, by `..` or by a link.

    Args:
      root: a folder.
      path: relative to the root, as it will be read.
    """
    normal = os.path.normpath(path)
    if os.path.isabs(path) or "://" in path or normal == ".." or normal.startswith("../"):
        return True
    return files.is_local(root) and not _is_below(os.path.realpath(os.path.join(root, path)), os.path.realpath(root))


def reason_of(error: Exception) -> str:
    """Return why something can't be read, in one line, never an empty one."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(message).split())


def _linked(root: str, link: str) -> Reject:
    if is_taken_where_it_lies(root, link):
        return Reject(link, rejects.LINKED_FOLDER, "links to a folder, whose files are taken where they lie")
    message = "links to a hidden folder, or one below it, which is passed over; move that to the place of the link"
    return Reject(link, rejects.CONTAINER, message)


def _entries(root: str, below: str, pool: futures.Executor) -> Iterator[FoundFile | Reject | str]:
    """What is in a folder; a folder comes as its path."""
    try:
        names = files.names(os.path.join(root, below) if below else root)
    except files.ERRORS as error:
        message = f"the folder can't be listed, and nobody knows what is in it: {reason_of(error)}"
        yield Reject(below or os.path.basename(root), rejects.CONTAINER, message)
        return
    yield from _stat_all(root, [f"{below}/{name}" if below else name for name in names if not is_hidden(name)], pool)


def _stat_all(root: str, paths: Iterable[str], pool: futures.Executor) -> Iterator[FoundFile | Reject | str]:
    """Look paths up, many at once; a folder comes back as its path."""
    if files.is_local(root):  # a look-up takes microseconds there, less than handing it to a thread
        yield from (_stat(root, path) for path in paths)
        return
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, _STATS_AT_ONCE)):
        yield from pool.map(_stat, itertools.repeat(root), batch)


def _stat(root: str, path: str) -> FoundFile | Reject | str:
    full = os.path.join(root, path)
    try:
        if problem := _problem(root, path):
            return problem
        found = files.look_up(full)
    except FileNotFoundError:
        return Reject(path, rejects.UNREADABLE, f"no such file; looked for {full!r}{_hint(path)}")
    except files.ERRORS as error:
        return Reject(path, rejects.UNREADABLE, f"can't be read: {reason_of(error)}{_hint(path)}")
    return path if found.is_folder else FoundFile(path, found.size, found.modified)


def _problem(root: str, path: str) -> Reject | None:
    """What a name or a link has against it; a folder may hold many pictures."""
    full = os.path.join(root, path)
    try:
        path.encode()
    except UnicodeEncodeError:
        code = rejects.CONTAINER if files.is_local(root) and os.path.isdir(full) else rejects.BAD_NAME
        return Reject(rejects.printable(path), code, "the name is not UTF-8; rename it")
    if files.is_local(root) and os.path.islink(full) and leads_outside(root, path):
        code = rejects.CONTAINER if os.path.isdir(full) else rejects.OUTSIDE_ROOT
        return Reject(path, code, "links to a place outside the source, which is not read; copy it there")
    return None


def _hint(path: str) -> str:
    """What may be wrong with a path at which nothing is."""
    if "\\" in path:
        return ": the path has backslashes; write / between folders"
    if path != path.strip() or any(part != part.strip() for part in path.split("/")):
        return ": the path begins or ends with a blank"
    return ""


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
