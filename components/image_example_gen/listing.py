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


class Folder(NamedTuple):
    """A folder: its path below the root, and whether a link leads there."""

    path: str
    is_link: bool


def top(root: str, hasty: bool = False) -> list[FoundFile | Folder | Reject]:
    """List what is in a folder itself.

    Args:
      root: the folder.
      hasty: as for `walk`.

    Raises:
      OSError, ValueError: it can't be listed.
    """
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        return list(_entries(root, "", pool, hasty))


def walk(
    root: str, first: Iterable[FoundFile | Folder | Reject], levels: int = 1, hasty: bool = False
) -> Iterator[FoundFile | Folder | Reject]:
    """List the files below a folder, with the names of one folder a level in memory.

    Hidden files and folders and the like of `Thumbs.db` are passed over. Each folder is listed once; on an object store,
    those on the last of the levels with all below them.

    Args:
      root: the folder.
      first: what is in it, as `top` returns it.
      levels: of folders that are listed one by one in any case.
      hasty: look no further into a folder, but for folders in it, than up to the first file that may be a picture.

    Yields:
      Each file and folder, or why it can't be taken: its name is not UTF-8, it leads outside the root, it can't be read.
    """
    at_one_go = not hasty and not files.is_local(root)
    with futures.ThreadPoolExecutor(_STAT_THREADS) as pool:
        # As deep as folders lie, so no recursion.
        waiting = [iter(first)]
        while waiting:
            found = next(waiting[-1], None)
            if found is None:
                waiting.pop()
            elif isinstance(found, Folder) and found.is_link:
                yield _linked(root, found.path)
            else:
                yield found
                if not isinstance(found, Folder):
                    continue
                objects = None
                if at_one_go and found.path.count("/") + 1 >= levels:
                    objects = files.below(os.path.join(root, found.path))
                    at_one_go = objects is not None
                deeper = _below(root, found.path, pool, hasty) if objects is None else _objects(root, found.path, objects)
                waiting.append(deeper)


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
            if isinstance(found, Folder):
                yield Reject(found.path, rejects.UNREADABLE, "is a folder")
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


def _below(root: str, folder: str, pool: futures.Executor, hasty: bool) -> Iterator[FoundFile | Folder | Reject]:
    try:
        yield from _entries(root, folder, pool, hasty)
    except files.ERRORS as error:
        message = f"the folder can't be listed, and nobody knows what is in it: {reason_of(error)}"
        yield Reject(folder, rejects.CONTAINER, message)


def _objects(root: str, folder: str, objects: Iterable[tuple[str, files.Stat]]) -> Iterator[FoundFile | Folder | Reject]:
    for name, found in objects:
        if not any(map(is_hidden, name.split("/"))):
            path = f"{folder}/{name}"
            yield _problem(root, path) or FoundFile(path, found.size, found.modified)


def _entries(root: str, below: str, pool: futures.Executor, hasty: bool) -> Iterator[FoundFile | Folder | Reject]:
    """What is in a folder."""
    full, prefix = (os.path.join(root, below), f"{below}/") if below else (root, "")
    if files.is_local(root):
        entries = (entry for entry in files.scan(full) if not is_hidden(entry.name))
        yield from _stat_entries(root, prefix, entries, hasty)
        return
    paths = [f"{prefix}{name}" for name in files.names(full) if not is_hidden(name)]
    for found in _stat_all(root, paths, pool, _STAT_THREADS if hasty else _STATS_AT_ONCE):
        yield found
        if hasty and _may_be_a_picture(found):
            return


def _stat_entries(
    root: str, prefix: str, entries: Iterable[os.DirEntry[str]], hasty: bool
) -> Iterator[FoundFile | Folder | Reject]:
    """Look up what is in a folder of this machine, with one call a file and none a folder, but for links."""
    enough = False
    for entry in entries:
        if enough and not entry.is_dir():
            continue
        path = f"{prefix}{entry.name}"
        found: FoundFile | Folder | Reject
        if entry.is_symlink() or not _is_utf8(entry.name):
            found = _stat(root, path)
        elif entry.is_dir():
            found = Folder(path, is_link=False)
        else:
            try:
                seen = entry.stat()
                found = FoundFile(path, seen.st_size, seen.st_mtime_ns)
            except OSError as error:
                found = Reject(path, rejects.UNREADABLE, f"can't be read: {reason_of(error)}")
        yield found
        enough = hasty and (enough or _may_be_a_picture(found))


def _may_be_a_picture(found: FoundFile | Folder | Reject) -> bool:
    return isinstance(found, FoundFile) and not is_container(found.path)


def _stat_all(
    root: str, paths: Iterable[str], pool: futures.Executor, at_once: int = _STATS_AT_ONCE
) -> Iterator[FoundFile | Folder | Reject]:
    """Look paths up, many at once."""
    if files.is_local(root):  # a look-up takes microseconds there, less than handing it to a thread
        yield from (_stat(root, path) for path in paths)
        return
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, at_once)):
        yield from pool.map(_stat, itertools.repeat(root), batch)


def _stat(root: str, path: str) -> FoundFile | Folder | Reject:
    full = os.path.join(root, path)
    try:
        if problem := _problem(root, path):
            return problem
        found = files.look_up(full)
        if found.is_folder:
            return Folder(path, files.is_local(root) and os.path.islink(full))
    except FileNotFoundError:
        return Reject(path, rejects.UNREADABLE, f"no such file; looked for {full!r}{_hint(path)}")
    except files.ERRORS as error:
        return Reject(path, rejects.UNREADABLE, f"can't be read: {reason_of(error)}{_hint(path)}")
    return FoundFile(path, found.size, found.modified)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(root: str, path: str) -> Reject | None:
    """What a name or a link has against it; a folder may hold many pictures."""
    full = os.path.join(root, path)
    if not _is_utf8(path):
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
