from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from modules import devices
from serving import check, client
from tests.serving import tiny_model

LABELS = ["cat", "dog", "owl"]
JUDGED = check.Judged(
    "serving_default", [b"1", b"2"], LABELS, np.array([[0.7, 0.2, 0.1], [0.40005, 0.4, 0.19995]], np.float32)
)


def said(rows: list[list[float]], allowed: float, labels: list[str] = LABELS) -> list[str]:
    return list(check.wrong(client.Answer(np.array(rows, np.float32), labels), JUDGED, allowed))


def test_the_bound_is_tight_where_both_compute_alike_and_loose_where_that_is_not_known() -> None:
    full, short = devices.FLOAT32, devices.TENSOR_FLOAT32
    assert check.bound(full, full) == check.TIGHT
    for one in (short, None):
        assert check.bound(full, one) == check.bound(one, full) == check.bound(one, one) == check.LOOSE


def test_a_gpu_in_tf32_answers_as_the_cpu_judged_and_ten_times_its_error_does_not() -> None:
    # 1.6e-3 is what was seen.
    near = [[0.7016, 0.1984, 0.1], [0.3985, 0.4016, 0.1999]]
    assert said(near, check.LOOSE) == []
    assert said(near, check.TIGHT) == ["probabilities differ by 0.0016 from those that were judged, more than 0.0001"]
    assert "differ by 0.016" in said([[0.716, 0.184, 0.1], [0.4001, 0.4, 0.1999]], check.LOOSE)[0]


def test_another_label_is_wrong_unless_the_two_were_as_close_as_a_probability_may_differ() -> None:
    changed = [[0.7, 0.2, 0.1], [0.4, 0.40005, 0.19995]]
    assert said(changed, 6e-5) == []
    assert said(changed, 4e-5)[0] == "the answer is dog, judged was cat"


@pytest.mark.parametrize(
    ("rows", "labels", "expected"),
    [
        ([[0.7, 0.2, 0.1], [0.4001, 0.4, 0.1999]], ["dog", "cat", "owl"], "labels are ['dog', 'cat', 'owl'], judged were"),
        ([[0.7, 0.2], [0.4, 0.4]], LABELS, "probabilities are (2, 2), judged were (2, 3)"),
        ([[0.7, 0.2, 0.1]], LABELS, "probabilities are (1, 3), judged were (2, 3)"),
        ([[0.7, np.nan, 0.1], [0.4, 0.4, 0.2]], LABELS, "probabilities are not finite"),
        ([[0.7, 0.2, 0.2], [0.4, 0.4, 0.2]], LABELS, "probabilities sum to 1.1000, not to 1"),
    ],
)
def test_an_answer_of_another_form_is_wrong(rows: list[list[float]], labels: list[str], expected: str) -> None:
    assert expected in said(rows, check.LOOSE, labels)[0]


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_an_answer_can_not_be_right_where_what_was_judged_is_no_number(lost: float) -> None:
    batch = JUDGED._replace(probabilities=np.array([[0.7, 0.2, 0.1], [lost, 0.4, 0.2]], np.float32))
    for rows in (JUDGED.probabilities, batch.probabilities):
        (line,) = check.wrong(client.Answer(rows, LABELS), batch, check.LOOSE)
        assert "that were judged are not finite" in line


def test_a_model_of_which_nothing_was_judged_is_not_as_it_was_judged(tmp_path: Path) -> None:
    tiny_model.export(tmp_path / "model")
    assert check.failures(str(tmp_path / "model"), [], devices.FLOAT32) == [
        "there is nothing that it was judged on, to compare with"
    ]


@hypothesis.given(st.integers(0, 10_000), st.sampled_from([check.TIGHT, check.LOOSE]))
def test_what_stays_within_half_the_bound_is_never_wrong(seed: int, allowed: float) -> None:
    random = np.random.default_rng(seed)
    judged = random.dirichlet([1.0] * 3, 2).astype(np.float32)
    change = random.uniform(-allowed / 4, allowed / 4, judged.shape)
    moved = judged + (change - change.mean(axis=1, keepdims=True)).astype(np.float32)
    batch = JUDGED._replace(probabilities=judged)
    assert list(check.wrong(client.Answer(moved, LABELS), batch, allowed)) == []
