"""Laws of shards, and of what is kept in one."""

import hashlib

import hypothesis
import pytest
from hypothesis import strategies as st

from components.image_example_gen import shards
from components.image_example_gen.preparation import shard_of
from components.image_example_gen.spill import Prepared
from components.image_example_gen.splits import Place, split_of

SPLITS = {"train": 8, "eval": 1, "test": 1}
ORDER = list(SPLITS)


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def picture(number: int, path: str = "", label: str = "a") -> Prepared:
    return Prepared(content(number), content(number), path or f"{number}.png", label, "")


@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.booleans())
def test_each_picture_is_kept_in_its_split_or_named_as_a_copy(found: list[int], deduplicate: bool) -> None:
    pictures = [picture(number, f"{i}.png") for i, number in enumerate(found)]
    given = {content(number): Place(ORDER[number % 3], content(number)) for number in found}
    verdict = shards.judge(pictures, given, deduplicate)
    assert all(place == given[kept.content_hash] for place, kept in verdict.kept)
    assert len(verdict.kept) + len(verdict.duplicates) == len(pictures)
    assert {kept.content_hash for _, kept in verdict.kept} == given.keys()
    assert not deduplicate or len(verdict.kept) == len(given)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab")), min_size=1, max_size=40))
def test_a_picture_under_two_labels_is_kept_under_none(found: list[tuple[int, str]]) -> None:
    pictures = [picture(number, f"{i}.png", label=label) for i, (number, label) in enumerate(found)]
    places = dict.fromkeys(map(content, range(6)), Place("train", ""))
    verdict = shards.judge(pictures, places, deduplicate=True)
    labels: dict[str, set[str]] = {}
    for one in pictures:
        labels.setdefault(one.content_hash, set()).add(one.label)
    in_conflict = {one.path for one in pictures if len(labels[one.content_hash]) == 2}
    assert {reject.path for reject in verdict.conflicts} == in_conflict
    assert {kept.path for _, kept in verdict.kept}.isdisjoint(in_conflict)


@hypothesis.given(st.integers(1, 1000), st.integers(0, 10**9))
@hypothesis.settings(max_examples=20)
def test_every_picture_has_a_shard_and_shards_are_independent_of_splits(shard_count: int, number: int) -> None:
    assert 0 <= shard_of(content(number), shard_count) < shard_count
    in_last_shard = [i for i in range(2000) if shard_of(content(i), 4) == 3]
    in_train = sum(split_of(content(i), SPLITS) == "train" for i in in_last_shard) / len(in_last_shard)
    assert 0.7 < in_train < 0.9


def test_a_conflict_that_is_the_backgrounds_doing_says_so_and_no_other_does() -> None:
    one, other = picture(1, "a.png", label="a"), picture(1, "b.png", label="b")
    (message, _) = [conflict.message for conflict in shards.judge([one, other], {}, True).conflicts]
    assert "image.background" not in message
    (message, _) = [
        conflict.message for conflict in shards.judge([one, other._replace(own_hash="f" * 64)], {}, True).conflicts
    ]
    assert message.endswith("; they are transparent and differ, but not on image.background: set another")


@pytest.mark.parametrize(
    ("volume", "pictures", "expected"),
    [
        (0, 0, 1),
        (3_000_000, 999, 1),
        (300_000, 1_000, 16),
        (10**12, 10, 10_000),
        (1_700_000_000, 20_000, 17),
    ],
)
def test_a_thousand_pictures_are_work_for_many_whatever_they_weigh(volume: int, pictures: int, expected: int) -> None:
    assert shards.number(volume, pictures, megabytes=100) == expected
