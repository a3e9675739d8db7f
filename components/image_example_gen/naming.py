"""What names of labels and folders say: what is seen of them, and which splits they mean."""

from __future__ import annotations

import collections
import functools
import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import NamedTuple

from modules import features

_SPLITS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), features.TRAIN),
    **dict.fromkeys(("eval", "evaluate", "evaluation", "val", "valid", "validate", "validation", "dev"), features.EVAL),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), features.TEST),
}
"""Words that mean a split."""
_GENERIC = re.compile(r"(images?|imgs?|pictures?|photos?|data|datasets?|sets?|splits?)*$")
_CAMEL_CASE = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W\d_]+")
# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), and the blank of Braille.
_IGNORED = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


class Meaning(NamedTuple):
    """The split that a name means, and the words besides, without those that mean nothing: `set`, `images`."""

    split: str
    rest: str


def visible(name: str) -> str:
    """Return what is seen of a name, without blanks and in one case: names for which it is equal look alike.

    Args:
      name: of a label, a folder or a column.
    """
    shown = unicodedata.normalize("NFKC", _IGNORED.sub("", name)).casefold()
    return "".join(letter for letter in shown if not _is_unseen(letter))


def clean_label(label: str) -> str:
    """Return a label as it is used: composed Unicode, so that one name is one class on every filesystem.

    Args:
      label: as found.

    Raises:
      ValueError: there is none, nothing of it can be seen, or it holds what a vocabulary file can't.
    """
    label = unicodedata.normalize("NFC", label).strip()
    if not label:
        raise ValueError("has no label")
    if any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in label):
        raise ValueError(f"the label {label!r} holds a line break or a control character")
    if not visible(label):
        raise ValueError(f"the label {label!a} holds nothing that can be seen; rename it")
    return label


def clean_group(group: str) -> str:
    """Return the name of a group as it is used: composed Unicode, without blanks around it; empty for none.

    Args:
      group: as found.
    """
    return unicodedata.normalize("NFC", group).strip()


@functools.lru_cache(1000)  # asked for every file below it
def meaning_of(name: str) -> Meaning | None:
    """Return which split a folder's name means, in any spelling: `Train`, `val`, `seg_test`, `TrainSet1`; None if none.

    Args:
      name: of the folder.
    """
    shown = "".join(letter for letter in unicodedata.normalize("NFKC", name) if not _is_unseen(letter) or letter.isspace())
    words = [_GENERIC.sub("", word.casefold()) for word in _WORD.findall(_CAMEL_CASE.sub(" ", shown))]
    if split := _split_of("".join(words)):
        return Meaning(split, "")
    found = next((word for word in words if _split_of(word)), None)
    if found is None:
        return None
    return Meaning(_split_of(found), " ".join(word for word in words if word and not _split_of(word)))


def are_splits(meanings: Iterable[Meaning]) -> bool:
    """Return whether folders that lie side by side look like splits: two mean different ones, and nothing else.

    `training shoes` beside `test tube` are labels; `seg_train` beside `seg_test`, or beside `test`, are not.

    Args:
      meanings: of their names.
    """
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for meaning in meanings:
        splits[meaning.rest].add(meaning.split)
    return any(len(found | splits[""]) > 1 for found in [*splits.values()])


def split_folders(names: Collection[str]) -> dict[str, str]:
    """Return which split each of the folders of a tree is, in any spelling; nothing where they are classes.

    Args:
      names: of all of them.

    Raises:
      ValueError: they look like splits, and not each means another one, alike spelt, train among them.
    """
    meanings = {name: meaning for name in sorted(names) if (meaning := meaning_of(name))}
    if not are_splits(meanings.values()):
        return {}
    splits = [meaning.split for meaning in meanings.values()]
    alike = len({meaning.rest for meaning in meanings.values()}) == 1
    if alike and len(meanings) == len(names) == len(set(splits)) and features.TRAIN in splits:
        return {name: meaning.split for name, meaning in meanings.items()}
    raise ValueError(
        f"{', '.join(meanings)} look like splits; a tree with splits above its classes holds one folder of each and nothing"
        f" else: {features.TRAIN}, and {features.EVAL}, {features.TEST} or both, in any spelling that is the same for all;"
        " rename or move away what is none or there twice; any other tree holds one subfolder per class"
    )


def split_named(word: str) -> str | None:
    """Return the split that a value of a column means: `Training`, `val`; None if none.

    Args:
      word: as found.
    """
    return _split_of(visible(word)) or None


def _split_of(word: str) -> str:
    return _SPLITS.get(word) or _SPLITS.get(word.removesuffix("s"), "")


def _is_unseen(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) in {"Cc", "Cf"} or bool(_IGNORED.match(letter))
