"""What could not be used, and why: the lines of the `rejects` artifact."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from components.image_example_gen import files

REJECTS_FILE = "rejects.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
COUNTS_FILE = "counts.jsonl"
SPANS_FILE = "spans.jsonl"
OTHERS_FILE = "others.jsonl"
EMPTY_FILE = "empty.jsonl"
GATHERED_FILES = (REJECTS_FILE, DUPLICATES_FILE, COUNTS_FILE, OTHERS_FILE)
"""Those whose lines come from all workers."""

# Reasons besides those of `modules.images`.
UNREADABLE = "unreadable"
OUTSIDE_ROOT = "outside_root"
LINKED_FOLDER = "linked_folder"
CHANGED = "changed"
BAD_NAME = "bad_name"
BAD_LABEL = "bad_label"
BAD_ROW = "bad_row"
NO_LABEL = "no_label"
NO_GROUP = "no_group"
TOO_MANY_BYTES = "too_many_bytes"
CONFLICT = "conflict"
CONTAINER = "unreadable_container"
"""A folder, records or a manifest that can't be read to its end: nobody knows how many pictures it holds."""
IN_NO_CLASS = "lies in no class's folder"

_NAMED = 10


class Reject(NamedTuple):
    """A file that could not be used: its path below the source, a reason code, and the reason in words."""

    path: str
    code: str
    message: str

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps({"path": printable(self.path), "code": self.code, "message": self.message}, ensure_ascii=False)


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
      others: number of files that are no pictures, neither by name nor by content, by the ending of their names.
      empty: folders of classes without a picture that could be used.
      containers: the first rejects with the code `CONTAINER`.
    """

    pictures: dict[tuple[str, str], int]
    rejected: int
    duplicates: int
    first: tuple[Reject, ...]
    codes: dict[str, int]
    path: str
    spans: tuple[str, ...] = ()
    others: dict[str, int] = {}  # noqa: RUF012 nobody writes into it
    empty: tuple[str, ...] = ()
    containers: tuple[Reject, ...] = ()

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
    def by_label(self) -> dict[str, int]:
        """Number of pictures of each label, the most first."""
        counts: collections.Counter[str] = collections.Counter()
        for (_, label), pictures in self.pictures.items():
            counts[label] += pictures
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def total(self) -> int:
        """Number of pictures."""
        return sum(self.pictures.values())

    @property
    def fraction(self) -> float:
        """Share of the rejected among all files, 0 to 1."""
        return self.rejected / max(1, self.rejected + self.duplicates + self.total)

    def describe(self, with_path: bool = True) -> str:
        """Return one line that counts the rejects, names the first ten and, if wanted, says where all are named."""
        reasons = ", ".join(f"{count} {code}" for code, count in sorted(self.codes.items(), key=lambda item: -item[1]))
        paths: dict[str, list[str]] = {}
        for reject in self.first:
            paths.setdefault(reject.message, []).append(printable(reject.path))
        named = "; ".join(f"{', '.join(together)}: {message}" for message, together in paths.items())
        more = "; …" if self.rejected > len(self.first) else ""
        where = f", {self.where}" if with_path else ""
        return f"{counted(self.rejected, 'file')} rejected ({reasons}){where}: {named}{more}"

    @property
    def where(self) -> str:
        """Where all rejects are named, in words."""
        return f"{'all ' if self.rejected > 1 else ''}named in {self.path}"

    def describe_labels(self) -> str:
        """Return how many pictures there are, and of which labels, the most first."""
        counts = self.by_label
        named = ", ".join(f"{label} {count}" for label, count in [*counts.items()][:_NAMED])
        more = f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else ""
        return f"{counted(self.total, 'picture')} of {counted(len(counts), 'label')}: {named}{more}"

    def describe_others(self) -> str:
        """Return how many files are no pictures, and of what kinds; empty if there are none."""
        if not self.others:
            return ""
        kinds = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} {f'.{kind}' if kind else 'without an ending'}" for kind, count in kinds[:_NAMED]]
        rest = sum(count for _, count in kinds[_NAMED:])
        return (
            f"{counted(sum(self.others.values()), 'other file')}: {', '.join([*shown, *([f'{rest} more'] if rest else [])])}"
        )


def read_summary(folder: str) -> Summary:
    """Read a `rejects` artifact.

    Args:
      folder: its URI.
    """
    codes: collections.Counter[str] = collections.Counter()
    first: list[Reject] = []
    containers: list[Reject] = []
    path = named(folder, REJECTS_FILE)
    for line in lines(path):
        reject = Reject(**line)
        codes[reject.code] += 1
        if len(first) < _NAMED:
            first.append(reject)
        if reject.code == CONTAINER and len(containers) < _NAMED:
            containers.append(reject)
    counts = {(line["split"], line["label"]): line["pictures"] for line in lines(os.path.join(folder, COUNTS_FILE))}
    with files.opened(os.path.join(folder, DUPLICATES_FILE)) as opened:
        duplicates = sum(1 for _ in opened)  # of which there may be very many
    spans = tuple(line["name"] for line in lines(os.path.join(folder, SPANS_FILE)))
    others = {line["kind"]: line["files"] for line in lines(os.path.join(folder, OTHERS_FILE))}
    empty = tuple(line["label"] for line in lines(os.path.join(folder, EMPTY_FILE)))
    return Summary(
        counts, codes.total(), duplicates, tuple(first), dict(codes), path, spans, others, empty, tuple(containers)
    )


def read_labels(folder: str) -> set[str]:
    """Read which labels have a picture in a `rejects` artifact.

    Args:
      folder: its URI.
    """
    return {line["label"] for line in lines(os.path.join(folder, COUNTS_FILE))}


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, with the right plural.

    Args:
      number: of them.
      noun: of one, in English, with a plural in -s.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(path: str) -> str:
    """Return a path that can be written as UTF-8."""
    try:
        return path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    except UnicodeEncodeError:  # half of a pair, as JSON can write it
        return path.encode(errors="backslashreplace").decode()


def named(folder: str, file: str) -> str:
    """Return where a file of a `rejects` artifact is, as a person is told, who may be elsewhere.

    Args:
      folder: URI of the artifact.
      file: its name there.
    """
    return os.path.join(os.path.abspath(folder) if files.is_local(folder) else folder, file)


def lines(path: str) -> Iterator[dict]:
    """Read a file of a `rejects` artifact, a line at a time."""
    with files.opened(path) as opened:
        for line in opened:
            yield json.loads(line)
