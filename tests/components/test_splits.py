"""Laws of which split a picture is in: groups, copies, what is joined, and splits that are cut from train."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import hypothesis
import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from components.image_example_gen import splits

SHARES = {"train": 8, "eval": 1, "test": 1}
ORDER = ["test", "eval", "train"]


class Picture(NamedTuple):
    number: int
    group: str = ""
    split: str = ""


def assigned(
    pictures: list[Picture], joined: Sequence[tuple[int, int]] = (), shares: dict[str, int] = SHARES
) -> splits.Assignment:
    rows = [
        {
            "content_hash": hashlib.sha256(str(one.number).encode()).hexdigest(),
            "label": "a",
            "group": one.group,
            "split": one.split,
            "path": f"{place}.png",
        }
        for place, one in enumerate(pictures)
    ]
    return splits.assign(pa.Table.from_pylist(rows, splits.PICTURES), np.array(joined, np.int64).reshape(-1, 2), shares)


groups = st.sampled_from(["", "", "ann", "bob", "cy", "dee", "eve", "flo", "gus"])
pictures_in_groups = st.lists(st.builds(Picture, st.integers(0, 60), groups, st.just("")), min_size=1, max_size=60)
pictures_of_all_kinds = st.lists(
    st.builds(Picture, st.integers(0, 30), groups, st.sampled_from(["", "train", "eval", "test"])), min_size=1, max_size=40
)
pairs = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=10)


def parts(pictures: list[Picture], joined: list[tuple[int, int]]) -> list[set[int]]:
    """The sets of places that belong together, found by merging sets."""
    found: list[set[int]] = []
    ties = [{place} for place in range(len(pictures))]
    for attribute in ("number", "group"):
        values = {getattr(one, attribute) for one in pictures} - {""}
        ties += [{i for i, one in enumerate(pictures) if getattr(one, attribute) == value} for value in values]
    for tie in [*ties, *({a, b} for a, b in joined)]:
        touched = [part for part in found if part & tie]
        found = [part for part in found if not part & tie] + [tie.union(*touched)]
    return found


@hypothesis.given(pictures_of_all_kinds, pairs)
def test_what_belongs_together_is_on_one_side(pictures: list[Picture], joined: list[tuple[int, int]]) -> None:
    joined = [pair for pair in joined if max(pair) < len(pictures)]
    found = assigned(pictures, joined)
    for part in parts(pictures, joined):
        assert len({found.splits[place] for place in part}) == 1
        assert {found.firsts[place] for place in part} == {min(part)}


@hypothesis.given(pictures_of_all_kinds, pairs)
def test_the_strictest_that_was_given_decides(pictures: list[Picture], joined: list[tuple[int, int]]) -> None:
    joined = [pair for pair in joined if max(pair) < len(pictures)]
    pictures = [*pictures, Picture(99)]  # nothing is cut where a picture was put into no split
    found = assigned(pictures, joined)
    for part in parts(pictures, joined):
        given = {pictures[place].split for place in part} - {""}
        if given:
            assert {found.splits[place] for place in part} == {min(given, key=ORDER.index)}


@hypothesis.given(pictures_in_groups, st.lists(st.builds(Picture, st.integers(0, 90), groups, st.just("")), max_size=40))
def test_growing_moves_only_what_was_joined_and_only_to_a_stricter_split(first: list[Picture], more: list[Picture]) -> None:
    before, after = assigned(first), assigned([*first, *more])
    joined = parts([*first, *more], [])
    for part in parts(first, []):
        place = min(part)
        (now,) = [other for other in joined if place in other]
        both = {one.group or one.number for one in ([*first, *more][other] for other in now)}
        own = {one.group or one.number for one in (first[other] for other in part)}
        if both == own:
            assert after.splits[place] == before.splits[place]
        else:
            assert ORDER.index(after.splits[place]) <= ORDER.index(before.splits[place])


@hypothesis.given(pictures_of_all_kinds, st.randoms(use_true_random=False))
def test_splits_do_not_depend_on_the_order(pictures: list[Picture], random: object) -> None:
    order = list(range(len(pictures)))
    random.shuffle(order)
    before, after = assigned(pictures), assigned([pictures[place] for place in order])
    assert [before.splits[place] for place in order] == after.splits.tolist()


@hypothesis.given(pictures_of_all_kinds)
def test_what_moved_is_named_with_one_that_it_belongs_to(pictures: list[Picture]) -> None:
    found = assigned(pictures)
    together = parts(pictures, [])
    for move in found.moves:
        place, other = (int(path.removesuffix(".png")) for path in (move.path, move.joined_to))
        assert any({place, other} <= part for part in together)
        assert move.after == found.splits[place] == found.splits[other] != move.before
    # A group has one split by itself, and so has a picture that is alone: neither moves unless something joins them.
    alone = [part for part in together if len({pictures[i].group or pictures[i].number for i in part}) == 1]
    moved = {int(move.path.removesuffix(".png")) for move in found.moves}
    assert all(moved.isdisjoint(part) for part in alone if len({pictures[i].split for i in part}) == 1)


@hypothesis.given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 10)] * 3))
@hypothesis.settings(max_examples=25)
def test_the_fractions_hold_within_statistical_bounds(first: int, buckets: tuple[int, int, int]) -> None:
    count, shares = 4000, dict(zip(("train", "eval", "test"), buckets, strict=True))
    found = [splits.split_of(hashlib.sha256(str(first + i).encode()).hexdigest(), shares) for i in range(count)]
    for split, share in shares.items():
        expected = share / sum(buckets)
        # Six standard deviations of a binomial distribution: one false alarm in 10^9.
        assert abs(found.count(split) / count - expected) < 6 * math.sqrt(expected * (1 - expected) / count)


def test_a_group_is_divided_by_its_name_whatever_is_in_it() -> None:
    many = [Picture(number, f"patient {number // 10}") for number in range(4000)]
    found = assigned(many)
    shares = {split: np.mean(found.splits == split) for split in SHARES}
    assert not found.moves
    assert all(len(set(found.splits[start : start + 10])) == 1 for start in range(0, 4000, 10))
    assert 0.7 < shares["train"] < 0.9
    assert 0.04 < shares["test"] < 0.17


@hypothesis.given(st.sampled_from([("test",), ("eval",)]), st.integers(0, 10**6))
@hypothesis.settings(max_examples=20)
def test_a_split_that_nothing_was_put_into_is_cut_from_train(given: tuple[str, ...], first: int) -> None:
    (missing,) = {"eval", "test"} - set(given)
    pictures = [Picture(first + i, f"g{(first + i) // 3}", "train") for i in range(1200)]
    pictures += [Picture(first + 5000 + i, "", given[0]) for i in range(50)]
    found = assigned(pictures)
    assert found.cut == (missing,)
    assert set(found.splits[1200:]) == {given[0]}
    assert set(found.splits[:1200]) == {"train", missing}
    assert 0.05 < np.mean(found.splits[:1200] == missing) < 0.19
    more = assigned([*pictures, *(Picture(first + 9000 + i, "", "train") for i in range(300))])
    assert (more.splits[:1250] == found.splits).all()
    assert not found.moves


def test_nothing_is_cut_where_some_pictures_were_put_into_no_split_or_none_into_train() -> None:
    assert assigned([Picture(1, "", "train"), Picture(2)]).cut == ()
    assert assigned([Picture(1, "", "eval"), Picture(2, "", "test")]).cut == ()
    assert assigned([Picture(1, "", "train"), Picture(2, "", "eval"), Picture(3, "", "test")]).cut == ()


def test_no_pictures_have_no_splits() -> None:
    assert assigned([]).splits.tolist() == []
