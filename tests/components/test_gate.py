import dataclasses
import json
from pathlib import Path

import pytest

from components.model_evaluator import gate
from components.model_evaluator.measured import Measured, Tally
from configs import schema


def measured(**tallies: Tally) -> Measured:
    return Measured(tallies, frozenset(tallies), megabytes=60.0, latency_ms=20.0)


MODEL = measured(cat=Tally(50, 45, {2: 48}), dog=Tally(50, 35, {2: 47}))
BEFORE = measured(cat=Tally(50, 45, {2: 48}), dog=Tally(50, 40, {2: 48}))


def judged(model: Measured = MODEL, baseline: Measured | None = None, **bounds: object) -> list[gate.Check]:
    section = schema.Evaluation(**{"min_accuracy": None, "max_accuracy_drop": None} | bounds).model_dump(mode="json")
    limits = gate.Limits(**{field.name: section[field.name] for field in dataclasses.fields(gate.Limits)})
    return gate.judge(limits, model, baseline)


@pytest.mark.parametrize(
    ("bounds", "value", "threshold"),
    [
        ({"min_accuracy": 0.81}, "accuracy 0.8 on 100 pictures,", "at least 0.81 (evaluation.min_accuracy)"),
        ({"max_accuracy_drop": 0.04}, "accuracy against the baseline 0.8 on 100 pictures,", "at least 0.8100"),
        ({"max_accuracy_drop_relative": 0.05}, "accuracy against the baseline 0.8 on 100 pictures,", "at least 0.8075"),
        (
            {"min_recall": 0.8},
            "recall of dog 0.7 on 50 pictures (95 %: 0.5625 to 0.8090),",
            "at least 0.8 (evaluation.min_recall)",
        ),
        (
            {"min_recall_of": {"cat": 0.95}},
            "recall of cat 0.9 on 50 pictures (95 %: 0.7864 to 0.9565),",
            "at least 0.95 (evaluation.min_recall_of.cat)",
        ),
        ({"min_recall_of": {"cow": 0.1}}, "recall of cow unknown on 0 pictures,", "nor does the model know it"),
        (
            {"min_top_k_accuracy": {2: 0.96}},
            "top-2 accuracy 0.95 on 100 pictures,",
            "at least 0.96 (evaluation.min_top_k_accuracy.2)",
        ),
        ({"min_examples": 101}, "test examples 100,", "at least 101 (evaluation.min_examples)"),
        (
            {"min_accuracy": 0.75, "confidence": 0.95},
            "accuracy 0.8 on 100 pictures (95 %: 0.7112 to 0.8666),",
            "with confidence 0.95 at least 0.7112",
        ),
        ({"max_model_megabytes": 50}, "model size in MB 60,", "at most 50 (evaluation.max_model_megabytes)"),
        ({"max_latency_ms": 15}, "latency in ms 20,", "at most 15 (evaluation.max_latency_ms)"),
    ],
)
def test_each_bound_refuses_with_a_line_that_names_value_and_threshold(bounds: dict, value: str, threshold: str) -> None:
    (refused,) = [check for check in judged(baseline=BEFORE, **bounds) if not check.passed]
    assert refused.line.startswith(value)
    assert threshold in refused.line


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_accuracy": 0.8, "max_accuracy_drop": 0.05, "max_accuracy_drop_relative": 0.06},
        {"min_recall": 0.8, "min_recall_of": {"dog": 0.7}},
        {"min_top_k_accuracy": {2: 0.95}, "min_examples": 100, "max_model_megabytes": 60, "max_latency_ms": 20},
        {"min_accuracy": 0.71, "confidence": 0.95},
    ],
)
def test_what_meets_its_bounds_exactly_passes(bounds: dict) -> None:
    assert all(check.passed for check in judged(baseline=BEFORE, **bounds))


def test_without_a_baseline_there_is_nothing_to_fall_below() -> None:
    assert all(check.passed for check in judged(max_accuracy_drop=0.0, max_accuracy_drop_relative=0.0))


def test_a_new_class_is_judged_by_its_recall_alone() -> None:
    grown = measured(cat=Tally(50, 45), dog=Tally(50, 40), bird=Tally(100, 10))
    bounds = {"max_accuracy_drop": 0.0, "max_accuracy_drop_relative": 0.0}
    assert all(check.passed for check in judged(grown, BEFORE, **bounds))
    (refused,) = [check for check in judged(grown, BEFORE, **bounds, min_recall=0.2) if not check.passed]
    assert refused.line.startswith("recall of bird 0.1 on 100 pictures, asked for: at least 0.2")


@pytest.mark.parametrize("bounds", [{}, {"max_accuracy_drop": 0.0}])
def test_the_comparison_says_which_labels_were_left_out(bounds: dict) -> None:
    grown = measured(cat=Tally(50, 40), bird=Tally(10, 10))
    compared = gate.comparison(judged(grown, BEFORE, **bounds))
    assert (compared.value, compared.baseline, compared.passed) == (0.8, 0.9, not bounds)
    assert compared.note.startswith("on 50 of 60 test pictures")
    assert compared.note.endswith("left out: bird (new); dog (gone)")


def test_models_without_a_common_label_are_not_compared() -> None:
    compared = gate.comparison(judged(measured(bird=Tally(9, 1)), BEFORE, max_accuracy_drop=0.0))
    assert (compared.value, compared.baseline, compared.passed) == (None, None, True)
    assert compared.note == "no comparison: no test picture has a label that the baseline knows (cat, dog)"


def test_the_pictures_of_a_row_are_the_same_for_both_models() -> None:
    for check in judged(measured(cat=Tally(50, 40), bird=Tally(10, 10)), BEFORE, min_accuracy=0.1, min_recall=0.1):
        assert check.baseline is None or check.metric in {"accuracy against the baseline", "recall of cat"}


def test_a_class_without_test_pictures_fails_the_bound_for_every_class() -> None:
    model = dataclasses.replace(MODEL, labels=frozenset({"cat", "dog", "owl"}))
    (refused,) = [check for check in judged(model, min_recall=0.5) if not check.passed]
    assert refused.line == (
        "recall of owl unknown on 0 pictures, asked for: at least 0.5 (evaluation.min_recall)"
        " (no test pictures of that label; evaluation.unseen_classes = warn lets it pass)"
    )
    assert all(check.passed for check in judged(model))


def test_by_configuration_it_is_said_to_be_unjudged_instead_and_a_name_that_is_none_still_fails() -> None:
    model = dataclasses.replace(MODEL, labels=frozenset({"cat", "dog", "owl"}))
    bounds = {"min_recall": 0.5, "min_recall_of": {"newt": 0.5}, "unseen_classes": "warn"}
    rows = {check.metric: check for check in judged(model, **bounds)}
    assert (rows["recall of owl"].passed, rows["recall of owl"].cells[-1]) == (True, "not judged")
    assert (rows["recall of newt"].passed, rows["recall of newt"].cells[-1]) == (False, "FAIL")
    assert (rows["recall of cat"].unjudged, rows["recall of cat"].cells[-1]) == (False, "pass")


def test_every_share_says_by_how_many_pictures_it_is_carried_and_few_show_the_interval() -> None:
    rows = {check.metric: check for check in judged(baseline=BEFORE, min_accuracy=0.1, min_recall=0.1, max_accuracy_drop=1)}
    assert [rows[name].pictures for name in ("accuracy", "accuracy against the baseline", "recall of dog")] == [100, 100, 50]
    assert rows["accuracy"].interval is None
    assert rows["recall of dog"].cells[1:3] == ("0.7 (95 %: 0.5625 to 0.8090)", "50")
    assert rows["test examples"].cells[2] == "-"


def test_the_table_is_read_as_it_was_written_and_so_is_one_of_before(tmp_path: Path) -> None:
    checks = judged(baseline=BEFORE, min_recall=0.1, min_accuracy=0.9, confidence=0.9)
    gate.write(str(tmp_path), checks)
    assert gate.read(str(tmp_path)) == checks
    old = [{"metric": "accuracy", "value": 0.9, "threshold": "", "baseline": None, "passed": True, "note": ""}]
    (tmp_path / gate.GATE_FILE).write_text(json.dumps(old))
    (check,) = gate.read(str(tmp_path))
    assert check.cells == ("accuracy", "0.9", "-", "-", "-", "pass")
