import dataclasses

import pytest

from components.model_evaluator import gate
from configs import schema

RECALL = {"cat": (0.9, 50), "dog": (0.7, 50)}
MODEL = gate.Measured(0.8, {2: 0.95}, RECALL, megabytes=60.0, latency_ms=20.0)
BEFORE = gate.Measured(0.85, {2: 0.96}, RECALL, megabytes=60.0, latency_ms=20.0)


def judged(model: gate.Measured = MODEL, baseline: gate.Measured | None = None, **bounds: object) -> list[gate.Check]:
    section = schema.Evaluation(**{"min_accuracy": None, "max_accuracy_drop": None} | bounds).model_dump(mode="json")
    limits = gate.Limits(**{field.name: section[field.name] for field in dataclasses.fields(gate.Limits)})
    return gate.judge(limits, model, baseline)


@pytest.mark.parametrize(
    ("bounds", "value", "threshold"),
    [
        ({"min_accuracy": 0.81}, "accuracy 0.8,", "at least 0.81 (evaluation.min_accuracy)"),
        ({"max_accuracy_drop": 0.04}, "accuracy against the baseline 0.8,", "at least 0.8100"),
        ({"max_accuracy_drop_relative": 0.05}, "accuracy against the baseline 0.8,", "at least 0.8075"),
        ({"min_recall": 0.8}, "recall of dog 0.7,", "at least 0.8 (evaluation.min_recall)"),
        ({"min_recall_of": {"cat": 0.95}}, "recall of cat 0.9,", "at least 0.95 (evaluation.min_recall_of.cat)"),
        ({"min_recall_of": {"cow": 0.1}}, "recall of cow unknown,", "no test pictures of that label"),
        ({"min_top_k_accuracy": {2: 0.96}}, "top-2 accuracy 0.95,", "at least 0.96 (evaluation.min_top_k_accuracy.2)"),
        ({"min_examples": 101}, "test examples 100,", "at least 101 (evaluation.min_examples)"),
        (
            {"min_accuracy": 0.75, "confidence": 0.95},
            "accuracy 0.8,",
            "with confidence 0.95 at least 0.7112 on 100 pictures",
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
