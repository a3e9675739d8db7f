"""Laws of the division into splits."""

import hashlib
import math

import hypothesis
from hypothesis import strategies as st

from components.image_example_gen import shards
from components.image_example_gen.preparation import Prepared, shard_of

SPLITS = {"train": 8, "eval": 1, "test": 1}


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def picture(number: int, path: str = "", split: str = "", label: str = "a") -> Prepared:
    return Prepared(content(number), content(number), path or f"{number}.png", label, split)


def splits_of(pictures: list[Prepared], deduplicate: bool = False) -> dict[tuple[str, str], str]:
    verdict = shards.judge(pictures, SPLITS, deduplicate)
    return {(kept.content_hash, kept.path): split for split, kept in verdict.kept}


numbers = st.lists(st.integers(0, 10**9), min_size=1, max_size=50, unique=True)


@hypothesis.given(numbers, st.randoms(use_true_random=False))
def test_a_split_depends_on_the_content_alone(found: list[int], random: object) -> None:
    pictures = [picture(number) for number in found]
    elsewhere = [picture(number, f"moved/{i}") for i, number in enumerate(found)]
    random.shuffle(elsewhere)
    before = {content: split for (content, _), split in splits_of(pictures).items()}
    after = {content: split for (content, _), split in splits_of(elsewhere).items()}
    assert before == after


@hypothesis.given(numbers, numbers)
def test_growing_the_set_moves_no_picture(first: list[int], more: list[int]) -> None:
    before = splits_of([picture(number) for number in first])
    after = splits_of([picture(number) for number in {*first, *more}])
    assert before.items() <= after.items()


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["", "train", "eval", "test"])), min_size=1, max_size=40),
    st.booleans(),
)
def test_copies_never_straddle_splits_and_none_is_lost(found: list[tuple[int, str]], deduplicate: bool) -> None:
    pictures = [picture(number, f"{i}.png", split) for i, (number, split) in enumerate(found)]
    verdict = shards.judge(pictures, SPLITS, deduplicate)
    places: dict[str, set[str]] = {}
    for split, kept in verdict.kept:
        places.setdefault(kept.content_hash, set()).add(split)
    assert all(len(splits) == 1 for splits in places.values())
    assert len(verdict.kept) + len(verdict.duplicates) == len(pictures)
    assert places.keys() == {kept.content_hash for kept in pictures}
    if deduplicate:
        assert len(verdict.kept) == len(places)


@hypothesis.given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab")), min_size=1, max_size=40))
def test_a_picture_under_two_labels_is_kept_under_none(found: list[tuple[int, str]]) -> None:
    pictures = [picture(number, f"{i}.png", label=label) for i, (number, label) in enumerate(found)]
    verdict = shards.judge(pictures, SPLITS, deduplicate=True)
    labels: dict[str, set[str]] = {}
    for one in pictures:
        labels.setdefault(one.content_hash, set()).add(one.label)
    in_conflict = {one.path for one in pictures if len(labels[one.content_hash]) == 2}
    assert {reject.path for reject in verdict.conflicts} == in_conflict
    assert {kept.path for _, kept in verdict.kept}.isdisjoint(in_conflict)


@hypothesis.given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 10)] * 3))
@hypothesis.settings(max_examples=25)
def test_the_fractions_hold_within_statistical_bounds(first: int, buckets: tuple[int, int, int]) -> None:
    count, splits = 4000, dict(zip(("train", "eval", "test"), buckets, strict=True))
    found = [shards.split_of(content(first + i), splits) for i in range(count)]
    for split, share in splits.items():
        expected = share / sum(buckets)
        # Six standard deviations of a binomial distribution: one false alarm in 10^9.
        assert abs(found.count(split) / count - expected) < 6 * math.sqrt(expected * (1 - expected) / count)


@hypothesis.given(st.integers(1, 1000), st.integers(0, 10**9))
@hypothesis.settings(max_examples=20)
def test_every_picture_has_a_shard_and_shards_are_independent_of_splits(shard_count: int, number: int) -> None:
    assert 0 <= shard_of(content(number), shard_count) < shard_count
    in_last_shard = [i for i in range(2000) if shard_of(content(i), 4) == 3]
    in_train = sum(shards.split_of(content(i), SPLITS) == "train" for i in in_last_shard) / len(in_last_shard)
    assert 0.7 < in_train < 0.9


def test_a_conflict_that_is_the_backgrounds_doing_says_so_and_no_other_does() -> None:
    one, other = picture(1, "a.png", label="a"), picture(1, "b.png", label="b")
    (message, _) = [conflict.message for conflict in shards.judge([one, other], SPLITS, True).conflicts]
    assert "image.background" not in message
    (message, _) = [
        conflict.message for conflict in shards.judge([one, other._replace(own_hash="f" * 64)], SPLITS, True).conflicts
    ]
    assert message.endswith("; they are transparent and differ, but not on image.background: set another")
