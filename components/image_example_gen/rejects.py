"""What could not be used, and why: the lines of the `rejects` artifact."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from tfx.dsl.io import fileio

from components.image_example_gen import naming

REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
COUNTS_FILE = "counts.jsonl"
SPANS_FILE = "spans.jsonl"

# Reasons besides those of `modules.images`.
UNREADABLE = "unreadable"
OUTSIDE_ROOT = "outside_root"
LINKED_FOLDER = "linked_folder"
BAD_NAME = "bad_name"
BAD_LABEL = "bad_label"
BAD_ROW = "bad_row"
NO_LABEL = "no_label"
TOO_MANY_BYTES = "too_many_bytes"
CONFLICT = "conflict"

_NAMED = 10


class Reject(NamedTuple):
    """A file that could not be used: its path below the source, a reason code, and the reason in words."""

    path: str
    code: str
    message: str

    def to_json(self) -> str:
        """Return one line of JSON."""
        line = {"path": naming.printable(self.path), "code": self.code, "message": self.message}
        return json.dumps(line, ensure_ascii=False)


class Summary(NamedTuple):
    """What ingestion made of its source.

    Attributes:
      pictures: those that became examples, by (split, label).
      rejected: number of files that could not be used.
      duplicates: number of copies that were left out.
      first: the first rejects.
      codes: how often each reason occurs.
      path: the file that names all rejects.
      spans: names of those that were read, the latest last; empty if the source has none.
    """

    pictures: dict[tuple[str, str], int]
    rejected: int
    duplicates: int
    first: tuple[Reject, ...]
    codes: dict[str, int]
    path: str
    spans: tuple[str, ...] = ()

    @property
    def labels(self) -> frozenset[str]:
        """The labels that have a picture."""
        return frozenset(label for _, label in self.pictures)

    @property
    def by_split(self) -> dict[str, int]:
        """Number of pictures in each split that has one."""
        counts: collections.Counter[str] = collections.Counter()
        for (split, _), pictures in self.pictures.items():
            counts[split] += pictures
        return dict(counts)

    @property
    def total(self) -> int:
        """Number of pictures."""
        return sum(self.pictures.values())

    @property
    def fraction(self) -> float:
        """Share of the rejected among all files, 0 to 1."""
        return self.rejected / max(1, self.rejected + self.duplicates + self.total)

    def describe(self) -> str:
        """Return one line that counts the rejects, names the first ten and says where all are named."""
        reasons = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items(), key=lambda item: -item[1]))
        named = "; ".join(f"{reject.path}: {reject.message}" for reject in self.first)
        files = "1 file" if self.rejected == 1 else f"{self.rejected} files"
        more = "; …" if self.rejected > len(self.first) else ""
        return f"{files} rejected ({reasons}), all named in {self.path}: {named}{more}"


def read_summary(folder: str) -> Summary:
    """Read a `rejects` artifact.

    Args:
      folder: its URI.
    """
    codes: collections.Counter[str] = collections.Counter()
    first: list[Reject] = []
    path = os.path.join(folder, REJECTS_FILE)
    for line in _lines(path):
        reject = Reject(**line)
        codes[reject.code] += 1
        if len(first) < _NAMED:
            first.append(reject)
    counts = {(line["split"], line["label"]): line["pictures"] for line in _lines(os.path.join(folder, COUNTS_FILE))}
    duplicates = sum(1 for _ in _lines(os.path.join(folder, DUPLICATES_FILE)))
    spans = tuple(line["name"] for line in _lines(os.path.join(folder, SPANS_FILE)))
    return Summary(counts, codes.total(), duplicates, tuple(first), dict(codes), path, spans)


def _lines(path: str) -> Iterator[dict]:
    with fileio.open(path, "r") as opened:
        for line in opened:
            yield json.loads(line)
