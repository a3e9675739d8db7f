"""The pictures that a command line names: files, folders with all that lies below, and a list on standard input."""

from __future__ import annotations

import codecs
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cli import answers, options
from components.image_example_gen import listing
from modules import headers
from serving.pictures import Unusable

STDIN = "-"
_CHUNK_BYTES = 2**16
_NAMED = 3


class _Nothing(Unusable):
    """What was given as a folder or a list, and names no picture."""


class _NoListError(ValueError):
    """Standard input that is no list of paths."""


def find(given: Sequence[str], null: bool) -> Iterator[str | Unusable]:
    """Return the files to read, in the order in which they were given, and sorted below a folder.

    Folders and lists are read as the files are taken. Below a folder, what ingestion passes over is passed over; links to
    files are followed, and links to folders are not.

    Args:
      given: files, folders, and `-` for paths on standard input.
      null: whether a NUL byte stands behind each path there, else a line feed.

    Raises:
      InputError: there is nothing to classify, or no folder where a path ends with `/`.
    """
    for path in given:
        # Without the slash it may be a file that has just vanished, which does not spoil the others.
        if path.endswith("/") and not os.path.isdir(path):
            raise options.InputError(f"{answers.escaped(path)}: no such folder")
    found = itertools.chain.from_iterable(_of_list(null) if path == STDIN else _at(path) for path in given)
    nothing: list[_Nothing] = []
    for file in found:
        if not isinstance(file, _Nothing):
            return itertools.chain(nothing, [file], found)
        nothing.append(file)
    raise options.InputError("; ".join(f"{answers.escaped(one.file)}: {one.error}" for one in nothing[:_NAMED]))


def count(given: Sequence[str]) -> int | None:
    """Return how many files those are, or None if folders or lists are among them.

    Args:
      given: as for `find`.
    """
    return None if any(path == STDIN or os.path.isdir(path) for path in given) else len(given)


def _of_list(null: bool) -> Iterator[str | Unusable]:
    """Yield the files of the paths on standard input."""
    expected = "paths with a NUL byte behind each, as --null says" if null else "paths, one a line"
    empty = True
    try:
        if sys.stdin is None:
            raise _NoListError("is closed")
        for line in _divided(sys.stdin.buffer, null):
            path = line if null else line.removesuffix(b"\r")
            if path:
                empty = False
                yield from map(_checked, _at(os.fsdecode(path)))
    except _NoListError as error:
        yield _Nothing(STDIN, f"standard input {error}; expected {expected}")
    else:
        if empty:
            yield _Nothing(STDIN, f"standard input is empty; expected {expected}")


def _divided(stream: Any, null: bool) -> Iterator[bytes]:
    """Divide a stream into paths, without holding much more of it than one."""
    rest = b""
    try:
        chunk = stream.read1(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8)
        while chunk:
            if b"\0" in chunk and not null:
                raise _NoListError("has NUL bytes, as `find -print0` writes them for --null, or is no text")
            *paths, rest = (rest + chunk).split(b"\0" if null else b"\n")
            yield from paths
            if len(rest) > _CHUNK_BYTES:
                raise _NoListError(f"goes on for {_CHUNK_BYTES} bytes without the end of a path")
            chunk = stream.read1(_CHUNK_BYTES)
    except OSError as error:
        raise _NoListError(f"can't be read: {error.strerror}") from None
    yield rest


def _at(path: str) -> Iterator[str | Unusable]:
    """Yield the file that a path names, or those below it."""
    if os.path.isdir(path):
        yield from _below(path)
    elif os.path.lexists(path) or os.path.splitext(path)[1]:
        yield path  # who reads it says what is wrong with it
    else:
        yield _Nothing(path, "No such file or directory")


def _below(root: str) -> Iterator[str | Unusable]:
    """Yield the files below a folder, each folder sorted, with the names of one folder a level in memory."""
    empty = True
    remaining = [root]
    while remaining:
        path = remaining.pop()
        if path != root and not os.path.isdir(path):
            if _is_no_picture(path):
                continue
            yield _checked(path)
        elif path != root and os.path.islink(path):
            if listing.is_taken_where_it_lies(root, os.path.relpath(path, root)):
                continue
            yield Unusable(path, "links to a folder that is not among those read; name it to classify what is in it")
        else:
            try:
                names = sorted(os.listdir(path), reverse=True)
            except OSError as error:
                yield Unusable(path, f"the folder can't be listed: {listing.reason_of(error)}")
            else:
                remaining += [os.path.join(path, name) for name in names if not listing.is_hidden(name)]
                continue
        empty = False
    if empty:
        yield _Nothing(root, "nothing to classify here; hidden files, and those that are no pictures, are passed over")


def _checked(file: str | Unusable) -> str | Unusable:
    """Refuse a pipe or a device, which would be waited for: only those that the command line itself names are meant."""
    if isinstance(file, str) and os.path.exists(file) and not os.path.isfile(file):
        return Unusable(file, "neither a file nor a folder")
    return file


def _is_no_picture(path: str) -> bool:
    """Whether a file neither is a picture nor claims to be one; what can't be read is not passed over."""
    if headers.claims_to_be_a_picture(path) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as opened:
            return headers.is_no_picture(path, opened.read(headers.SNIFFED_BYTES))
    except OSError:
        return False
