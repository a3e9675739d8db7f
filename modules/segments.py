"""Rows on disk that are found by a name of their own, for processes that know nothing of each other.

A segment is a folder of rows that were made together. It is written aside, flushed and renamed, and never changes: what can
be read is whole, without any lock. Segments that nobody uses make way for new ones. Who uses what is written down in a file
for each user: it counts as long as its lock is held, and, where the user may be on another machine and locks are not to be
trusted, for an hour after it was last touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from modules import durable

_FORMAT = 1
_MANIFEST, _ROWS, _IDS, _SHARES = "manifest.json", "rows", "ids.npy", "shares.npy"
_COLLECTIONS, _USERS, _UNFINISHED = "views", "users", "unfinished"
_LEASE = 3600.0
"""Seconds for which a user on another machine counts as alive after its last sign."""
_SECONDS_BETWEEN_SIGNS = 60.0


class Segment(NamedTuple):
    """Rows that were made together."""

    folder: Path
    ids: np.ndarray
    """Of its rows, `S32` `[rows]`."""
    shares: np.ndarray
    """Of each picture in its own row, float32 `[rows]`; the rest is its partner's."""
    shape: tuple[int, ...]
    """Of a row."""

    def rows(self) -> np.ndarray:
        """Return its rows, float16 `[rows, *shape]`, memory-mapped."""
        return np.memmap(self.folder / _ROWS, np.float16, "r", shape=(len(self.ids), *self.shape))


class Writer:
    """Writes the rows of one segment.

    Args:
      opened: file for the rows.
      sign: is called now and then, as this may take hours.
    """

    def __init__(self, opened: BinaryIO, sign: Callable[[], object]):
        self._opened, self._sign = opened, sign
        self.ids: list[np.ndarray] = []
        self.shares: list[np.ndarray] = []

    def add(self, ids: np.ndarray, shares: np.ndarray, rows: np.ndarray) -> None:
        """Add some rows.

        Args:
          ids: of the rows, `S32` `[rows]`.
          shares: of each picture in its own row, float32 `[rows]`.
          rows: float16 `[rows, *shape]`.

        Raises:
          OSError: the disk is full.
        """
        self._sign()
        self._opened.write(np.ascontiguousarray(rows, np.float16).data)
        self.ids.append(ids)
        self.shares.append(shares)


class Store:
    """Segments in collections, below one folder.

    Args:
      root: the folder; it is made.
      collections: paths of those that are used until this object is gone.
    """

    def __init__(self, root: Path, collections: Sequence[str]):
        self._root = root
        self._sign = _Sign(root / _USERS, collections)

    def sign(self) -> None:
        """Show that this user lives; cheap enough for each batch."""
        self._sign.give()

    def segments(self, collection: str, key: Mapping[str, Any], name: str = "*") -> list[Segment]:
        """Return the segments of a collection, used now; one that is damaged, or of another key, counts as none.

        Args:
          collection: one of those that are used.
          key: all that its rows depend on.
          name: of one of them.
        """
        self._sign.give()
        found = []
        for folder in sorted((self._root / _COLLECTIONS / collection).glob(name)):
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError):
                found.append(_read(folder, key))
                os.utime(folder)
        return found

    @contextlib.contextmanager
    def writing(self, collection: str, key: Mapping[str, Any], shape: tuple[int, ...]) -> Iterator[Writer]:
        """Yield what writes a segment; it is there from the end of the block on, and not at all if that raises.

        Args:
          collection: one of those that are used.
          key: all that its rows depend on.
          shape: of a row.
        """
        self._sign.give()
        with self._aside() as unfinished:
            unfinished.mkdir()
            with (unfinished / _ROWS).open("wb") as opened:
                writer = Writer(opened, self.sign)
                yield writer
            ids, shares = np.concatenate(writer.ids), np.concatenate(writer.shares)
            for name, array in ((_IDS, ids), (_SHARES, shares)):
                # To a file itself NumPy writes with errors that don't say why.
                content = io.BytesIO()
                np.save(content, array)
                (unfinished / name).write_bytes(content.getbuffer())
            manifest = {"format": _FORMAT, "key": key, "rows": len(ids), "shape": shape}
            (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for name in (_ROWS, _IDS, _SHARES, _MANIFEST):
                durable.flush(unfinished / name)
            final = self._root / _COLLECTIONS / collection / hashlib.sha256(ids.tobytes()).hexdigest()[:32]
            if not durable.publish_folder(unfinished, final) and not self.segments(collection, key, final.name):
                # What somebody else has written is damaged.
                self._remove(final, in_use=True)
                durable.publish_folder(unfinished, final)

    def make_room(self, wanted: int, budget: int, parts: Mapping[Path, float]) -> int:
        """Delete segments until others fit: those that nobody uses, used longest ago first, then those used the least.

        Args:
          wanted: bytes of what will be written.
          budget: bytes that everything may have.
          parts: which part of a segment this user needs, by folder, 0 to 1; it is written anew if that is deleted.

        Returns:
          How many bytes are gone.

        Raises:
          OSError: what is in use leaves too little.
        """
        self._tidy()
        had = has = size(self._root)
        others = self._used_by_others()
        candidates = []
        for folder in (self._root / _COLLECTIONS).glob("*/*/*"):
            # Others may make room at the same time.
            with contextlib.suppress(FileNotFoundError):
                if self._collection(folder) not in others:
                    candidates.append((parts.get(folder, 0.0), folder.stat().st_mtime, folder))
        for part, _, folder in sorted(candidates):
            if has + wanted <= budget or part >= 1.0:
                break
            own = size(folder)
            self._remove(folder)
            if not folder.exists():
                has, wanted = has - own, wanted + round(part * own)
        if has + wanted > budget:
            has = size(self._root)
        if has + wanted > budget:
            raise OSError(errno.ENOSPC, f"{has / 1e6:,.1f} MB of kept features are in use", str(self._root))
        return had - has

    def _remove(self, folder: Path, in_use: bool = False) -> bool:
        """Take a segment away; unless it may be in use, not if somebody has begun to use it meanwhile."""
        with self._aside() as aside:
            try:
                folder.rename(aside)
            except OSError:
                return False
            if not in_use and self._collection(folder) in self._used_by_others():
                with contextlib.suppress(OSError):
                    aside.rename(folder)
                return False
            return True

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """Yield a name for what nobody else sees; it is removed at the end."""
        aside = self._root / _UNFINISHED / self._sign.name / uuid.uuid4().hex
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            with contextlib.suppress(OSError):
                aside.parent.rmdir()

    def _collection(self, folder: Path) -> str:
        return folder.parent.relative_to(self._root / _COLLECTIONS).as_posix()

    def _used_by_others(self) -> set[str]:
        users = [path for path in (self._root / _USERS).glob("[!.]*") if path.name != self._sign.name]
        now = self._sign.give(at_once=True)
        return {collection for path in users if _is_alive(path, now) for collection in _collections_of(path)}

    def _tidy(self) -> None:
        """Remove what those left that are gone."""
        now = self._sign.give(at_once=True)
        for path in (self._root / _USERS).glob("*"):
            if path.name.lstrip(".") != self._sign.name and not _is_alive(path, now):
                path.unlink(missing_ok=True)
        there = {path.name.lstrip(".") for path in (self._root / _USERS).glob("*")}
        for folder in (self._root / _UNFINISHED).glob("*"):
            if folder.name not in there:
                shutil.rmtree(folder, ignore_errors=True)
        for path in self._root.glob("*"):
            # Earlier versions of this project kept their views otherwise.
            if path.name not in {_COLLECTIONS, _USERS, _UNFINISHED}:
                shutil.rmtree(path, ignore_errors=True)


class _Sign:
    """A sign of life: a file that names what is used. Its lock is held until this object or the process is gone."""

    def __init__(self, folder: Path, collections: Sequence[str]):
        self.name = f"{durable.machine()}-{uuid.uuid4().hex}"
        self._path, self._text = folder / self.name, json.dumps(list(collections))
        self._given = 0.0
        self._write()

    def give(self, at_once: bool = False) -> float:
        """Show now and then that this user lives; return the time of the file system, as it was at the last sign."""
        if at_once or time.monotonic() - self._given > _SECONDS_BETWEEN_SIGNS:
            try:
                os.utime(self._path)
            except FileNotFoundError:
                # Someone on another machine has not heard of this user for too long.
                self._write()
            self._given = time.monotonic()
        return self._path.stat().st_mtime

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Nobody sees it before it is locked.
        hidden = self._path.with_name(f".{self.name}")
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o666)
        os.write(descriptor, self._text.encode())
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(self._path)
        weakref.finalize(self, _forget, descriptor, self._path)


def _forget(descriptor: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(descriptor)


def _is_alive(path: Path, now: float) -> bool:
    try:
        age = now - path.stat().st_mtime
        with path.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return age < _LEASE
    except FileNotFoundError:
        return False
    if path.name.startswith("."):
        return age < _SECONDS_BETWEEN_SIGNS  # it is being written
    return age < _LEASE and not path.name.startswith(durable.machine())


def _collections_of(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return []


def _read(folder: Path, key: Mapping[str, Any]) -> Segment:
    """A segment.

    Raises:
      OSError, ValueError, KeyError, EOFError: it is none, or of another key.
    """
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["format"] != _FORMAT or manifest["key"] != json.loads(json.dumps(key)):
        raise ValueError("of another key")
    segment = Segment(folder, np.load(folder / _IDS), np.load(folder / _SHARES), tuple(manifest["shape"]))
    rows = manifest["rows"]
    if not (len(segment.ids) == len(segment.shares) == rows == len(segment.rows())):
        raise ValueError("its files have different lengths")
    if (folder / _ROWS).stat().st_size != segment.rows().nbytes:
        raise ValueError("its rows are not whole")
    return segment


def size(folder: Path) -> int:
    """Return the bytes of everything below a folder, which need not be there."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(base, name)).st_size
    return total
