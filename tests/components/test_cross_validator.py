"""What is made of out-of-fold answers: scores, the gate's row, and labels that may be wrong."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from components.cross_validator import scores, suspects
from components.model_evaluator import gate
from configs import schema
from tests.components.test_gate import MODEL

LABELS = ["cat", "dog", "owl"]


def answers(pictures: int, sure: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities of a model that is about so sure of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=pictures)
    logits = random.normal(size=(pictures, 3)) + sure * np.eye(3)[labels]
    exponents = np.exp(logits)
    return labels, (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def alone(pictures: int) -> list[str]:
    return [str(place) for place in range(pictures)]


def test_scores_are_those_of_the_answers_and_outlive_the_process(tmp_path: Path) -> None:
    labels, probabilities = answers(500, 2.0)
    found = scores.score(5, labels, probabilities, LABELS, alone(500))
    said = probabilities.argmax(axis=1)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, said))
    assert found.log_loss == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-5)
    recalls = metrics.recall_score(labels, said, average=None)
    assert [one.right / one.pictures for one in found.classes] == pytest.approx(recalls)
    assert sum(one.pictures for one in found.calibration) == 500
    scores.write(str(tmp_path), found)
    assert scores.read(str(tmp_path)) == found


def test_calibration_tells_a_model_that_is_too_sure_from_one_that_is_not() -> None:
    labels, probabilities = answers(5000, 1.0)  # which are their probabilities, by Bayes' theorem
    sharpened = probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True)
    honest, too_sure = (
        scores.score(5, labels, one, LABELS, alone(5000)).calibration_error for one in (probabilities, sharpened)
    )
    assert honest < 0.03
    assert too_sure > 0.2


def test_a_class_without_pictures_and_one_that_is_never_answered_have_scores() -> None:
    found = scores.score(2, np.array([0, 0, 1]), np.array([[1, 0, 0]] * 3, np.float32), LABELS, alone(3))
    assert [(one.label, one.pictures, one.right) for one in found.classes] == [("cat", 2, 2), ("dog", 1, 0), ("owl", 0, 0)]
    given = np.array([0, 0, 1]), np.array([[1, 0, 0]] * 3, np.float32)
    assert list(suspects.find(*given, np.full(3, True))) == [(2, 0, 1.0)]
    assert list(suspects.find(*given, np.array([True, True, False]))) == [], (
        "who does not know dogs says nothing of this one"
    )


def test_swapped_labels_are_the_first_suspects_with_what_they_were() -> None:
    labels, probabilities = answers(1000, 6.0)
    random = np.random.default_rng(1)
    swapped = random.choice(1000, 50, replace=False)
    given = labels.copy()
    given[swapped] = (labels[swapped] + random.integers(1, 3, 50)) % 3
    found = list(suspects.find(given, probabilities, np.full(1000, True)))
    first = found[:50]
    assert len({place for place, _, _ in first} & set(swapped.tolist())) >= 45
    assert np.mean([seems == labels[place] for place, seems, _ in first]) > 0.9
    assert [score for *_, score in found] == sorted((score for *_, score in found), reverse=True)
    assert len(list(suspects.find(labels, probabilities, np.full(1000, True)))) < 15


@pytest.mark.parametrize("of_a_group", [1, 5, 20])
def test_the_interval_holds_what_it_says_also_where_pictures_of_a_group_fail_together(of_a_group: int) -> None:
    random, held = np.random.default_rng(3), 0
    groups = [str(place // of_a_group) for place in range(300)]
    for _ in range(300):
        chances = random.beta(1.6, 0.4, 300 // of_a_group).repeat(of_a_group)  # 0.8 in the mean
        right = random.random(300) < chances
        probabilities = np.where(right[:, None], [[0.9, 0.1, 0]], [[0.1, 0.9, 0]])
        found = scores.score(5, np.zeros(300, np.int64), probabilities, LABELS, groups)
        low, high = gate.interval(found.accuracy, found.independent, 0.95)
        held += low <= 0.8 <= high
    assert held / 300 > (0.92 if of_a_group < 20 else 0.85)  # of fifteen groups the spread itself is hardly known


@pytest.mark.parametrize(("share", "pictures"), [(0.0, 10), (0.9, 500), (1.0, 3), (0.5, 2)])
def test_an_interval_is_wilsons(share: float, pictures: int) -> None:
    expected = stats.binomtest(round(share * pictures), pictures).proportion_ci(0.9, method="wilson")
    assert gate.interval(share, pictures, 0.9) == pytest.approx((expected.low, expected.high))


def test_suspects_of_any_name_come_back_from_the_csv(tmp_path: Path) -> None:
    found = [suspects.Suspect('a,b/"x"\n.png\r', "größe", "=cmd()", 0.98765), suspects.Suspect("é", "", "b", 0.5)]
    suspects.write(str(tmp_path), found)
    assert suspects.read(str(tmp_path)) == [found[0]._replace(score=0.9877), found[1]]
    suspects.write(str(tmp_path), [])
    assert suspects.read(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("bounds", "passed", "line"),
    [
        ({}, True, "accuracy over 5 folds 0.9 on 500 pictures (95 %: 0.8706 to 0.9233), asked for: "),
        ({"min_fold_accuracy": 0.9}, True, "at least 0.9 (evaluation.min_fold_accuracy)"),
        (
            {"min_fold_accuracy": 0.91},
            False,
            "accuracy over 5 folds 0.9 on 500 pictures (95 %: 0.8706 to 0.9233), asked for:",
        ),
        ({"min_fold_accuracy": 0.9, "confidence": 0.9}, False, "(90 %: 0.8757 to 0.9200)"),
    ],
)
def test_the_gate_asks_for_what_the_folds_found_with_its_interval(bounds: dict, passed: bool, line: str) -> None:
    found = scores.Scores(
        folds=5,
        pictures=500,
        groups=500,
        right=450,
        independent=500,
        log_loss=0.3,
        calibration_error=0.01,
        calibration=[],
        classes=[],
    )
    given = {"min_accuracy": None, "max_accuracy_drop": None, "folds": 5}
    section = schema.Evaluation(**given | bounds).model_dump(mode="json")
    limits = gate.Limits(**{field.name: section[field.name] for field in dataclasses.fields(gate.Limits)})
    (row,) = [check for check in gate.judge(limits, MODEL, None, found) if "folds" in check.metric]
    assert row.passed is passed
    assert line in row.line
    assert gate.judge(limits, MODEL, None) == [check for check in gate.judge(limits, MODEL, None, found) if check != row]
