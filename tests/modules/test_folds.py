import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from modules import batches, contents, dataset, feature_cache, folds, progress, trainer
from tests.modules import trainings

PICTURES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), min_size=12, max_size=80)


def known(labels: list[int]) -> contents.Contents:
    ids = np.array([contents.id_of(str(place).encode()) for place in range(len(labels))], "S32")
    return contents.Contents(ids, np.array(labels), np.ones(len(labels), np.int64), 4)


@hypothesis.given(PICTURES, st.integers(2, 6), st.integers(0, 2**31 - 1), st.randoms())
def test_no_group_is_torn_each_picture_is_held_out_once_and_its_place_in_the_files_is_nothing(
    pictures: list[tuple[int, int]], count: int, seed: int, random: Random
) -> None:
    labels, groups = [label for label, _ in pictures], [f"group {group}" for _, group in pictures]
    found = folds.divide(known(labels), groups, count, seed)
    for group in set(groups):
        assert len({fold for fold, own in zip(found, groups, strict=True) if own == group}) == 1
    assert set(found) <= set(range(count))
    order = list(range(len(labels)))
    random.shuffle(order)
    again = folds.divide(known(labels).part(np.array(order)), [groups[place] for place in order], count, seed)
    assert (again == found[order]).all()


@hypothesis.given(st.lists(st.integers(0, 3), min_size=12, max_size=80), st.integers(2, 6))
def test_without_groups_each_fold_has_as_many_of_a_class(labels: list[int], count: int) -> None:
    found = folds.divide(known(labels), [str(place) for place in range(len(labels))], count, seed=1)
    for label in set(labels):
        held_out = np.bincount(found[np.array(labels) == label], minlength=count)
        assert held_out.max() - held_out.min() <= 1
    sizes = np.bincount(found, minlength=count)
    assert sizes.max() - sizes.min() <= len(set(labels))


def test_with_groups_each_fold_has_about_as_many_of_a_class() -> None:
    missing, spread = 0, []
    for seed in range(50):
        random = np.random.default_rng(seed)
        sizes = random.integers(2, 16, 40)
        groups = np.arange(40).repeat(sizes)
        labels = random.integers(0, 3, 40).repeat(sizes)
        found = folds.divide(known(labels.tolist()), [f"patient {group}" for group in groups], 5, seed)
        table = np.array([np.bincount(found[labels == label], minlength=5) for label in range(3)])
        missing += (table == 0).any()
        spread += (table.std(axis=1) / table.mean(axis=1)).tolist()
    assert not missing
    assert np.mean(spread) < 0.12


def test_too_few_groups_are_refused_with_how_many_there_have_to_be() -> None:
    with pytest.raises(folds.FoldsError, match=r"evaluation.folds = 5: .* 3 groups .*; expected 5 or more, or fewer folds"):
        folds._plan(known([0, 1] * 10), np.array(["a", "b", "c", "c"] * 5), 5, 9, 1)
    with pytest.raises(folds.FoldsError, match="expected 3 or more"):
        folds._plan(known([0, 1] * 10), np.array(["a", "b"] * 10), 2, 9, 1)


def test_about_as_much_is_watched_as_in_the_splits_however_large_a_group_is() -> None:
    groups = np.array(["large"] * 100 + [str(place) for place in range(200)])
    _, plans = folds._plan(known([0] * 100 + [place % 3 for place in range(200)]), groups, 5, 9, 1)
    for plan in plans:
        assert len(plan.held_out) + len(plan.train) + len(plan.watched) == 300
        assert not set(groups[plan.train]) & (set(groups[plan.watched]) | set(groups[plan.held_out]))
        assert 0 < len(plan.watched) < 60


def test_pictures_of_a_class_that_is_one_group_are_known_as_such(caplog: pytest.LogCaptureFixture) -> None:
    labels = [0] * 20 + [1] * 20 + [2] * 6
    groups = np.array([str(place) for place in range(40)] + ["one"] * 6)
    division, plans = folds._plan(known(labels), groups, 4, 9, 1)
    with caplog.at_level("WARNING", progress.logger.name):
        learnt = folds._learnt(known(labels), division, plans)
    assert learnt[:40].all()
    assert not learnt[40:].any()
    assert "for 6 pictures no other ones of their class are learnt from" in caplog.text


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> folds.OutOfFold:
    return trainings.cross_validate(tmp_path_factory.mktemp("undisturbed"))


def test_every_picture_is_answered_and_what_is_easy_is_right(undisturbed: folds.OutOfFold) -> None:
    assert undisturbed.probabilities.shape == (27, 3)
    assert undisturbed.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-3)
    labels = np.array([place % 3 for place in range(20)] + [place % 3 for place in range(7)])
    assert (undisturbed.probabilities.argmax(axis=1) == labels).mean() > 0.6


@pytest.mark.parametrize("moment", ["fold 1 of 3: accuracy", "fold 2 of 3: "])
def test_one_that_was_killed_goes_on_as_if_nothing_had_happened(
    moment: str, undisturbed: folds.OutOfFold, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.modules.trainings", str(tmp_path), json.dumps({}), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert any(line.startswith(moment) for line in killed.stdout)
        assert moment.endswith("accuracy") or any(line.startswith("finetune epoch 1/2: ") for line in killed.stdout)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert "fold 1 of 3" not in again
    assert ("training goes on where it was" in again) == ("fold 2" in moment)
    assert (np.load(tmp_path / "probabilities.npy") == undisturbed.probabilities).all()


def test_what_is_held_out_chooses_nothing(
    undisturbed: folds.OutOfFold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all the labels of a fold wrong the models that hold it out say the same."""
    given = undisturbed.folds == 0

    answered = folds._answered

    def with_wrong_labels(inputs: trainer.Inputs, pictures: dataset.Split, *others: Any) -> np.ndarray:
        labels = pictures.contents.label_ids.copy()
        labels[given] = (labels[given] + 1) % 3
        return answered(inputs, pictures._replace(contents=pictures.contents._replace(label_ids=labels)), *others)

    monkeypatch.setattr(folds, "_answered", with_wrong_labels)
    found = trainings.cross_validate(tmp_path)
    assert (found.probabilities[given] == undisturbed.probabilities[given]).all()
    assert (found.probabilities[~given] != undisturbed.probabilities[~given]).any()


def test_pictures_are_mixed_with_none_that_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[feature_cache.Wanted] = []
    views = feature_cache.FeatureCache.views

    def noting(self: feature_cache.FeatureCache, plans: list[feature_cache.Wanted], *others: Any) -> Any:
        wanted.extend(plans)
        return views(self, plans, *others)

    monkeypatch.setattr(feature_cache.FeatureCache, "views", noting)
    found = trainings.cross_validate(tmp_path, {"augmentation": {"mix": "mixup"}})
    given = trainings.inputs(tmp_path)
    ids = np.concatenate([given.train.contents.ids, given.evaluation.contents.ids])
    held_out = [set(ids[found.folds == fold]) for fold in range(3)]
    augmented = [set(one.split.contents.ids) for one in wanted if one.augment is not None]
    assert augmented
    assert all(any(mixed.isdisjoint(fold) for fold in held_out) for mixed in augmented)


def test_what_was_kept_is_of_the_same_pictures_where_they_lie_otherwise(
    undisturbed: folds.OutOfFold, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Train and eval are exchanged as files; the pictures, and how much is watched, are the same."""
    first = trainings.cross_validate(tmp_path)
    assert (first.probabilities == undisturbed.probabilities).all()
    with caplog.at_level("INFO", progress.logger.name):
        again = trainings.cross_validate(tmp_path, exchanged=True)
    assert "held out" not in caplog.text
    order = [*range(20, 27), *range(20)]
    assert (again.folds == first.folds[order]).all()
    assert (again.probabilities == first.probabilities[order]).all()


def test_where_there_is_no_room_for_what_is_held_out_it_is_answered_all_the_same(
    undisturbed: folds.OutOfFold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batches.FromFeatures, "predict", full)
    found = trainings.cross_validate(tmp_path)
    assert found.probabilities == pytest.approx(undisturbed.probabilities, abs=0.05)  # bfloat16 or not


def test_without_a_frozen_prefix_it_is_refused_by_name(tmp_path: Path) -> None:
    phases = [{"name": "all", "epochs": 1, "learning_rates": [[".*", 1e-4]]}]
    with pytest.raises(
        folds.FoldsError, match=r"evaluation.folds: .* expected a prefix that stays frozen in training.phases"
    ):
        trainings.cross_validate(tmp_path, {"training": {"phases": phases}})


def test_folds_share_the_kept_features(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", progress.logger.name):
        trainings.cross_validate(tmp_path)
    made = [line for line in caplog.messages if " pictures, " in line and "view" in line]
    for above in (False, True):
        total = sum(int(line.split(": ")[1].split(" ")[0]) for line in made if ("block5_pool" in line) == above)
        # An augmented view of each picture and a plain one, whatever the number of folds; few are watched in all they are
        # not held out of.
        assert 27 < total <= 27 * 2
