import pytest

from components.image_example_gen import rejects
from components.model_evaluator import gate
from pipeline import outcome

SUMMARY = rejects.Summary({("test", "cat"): 8}, 0, 0, (), {}, "report/rejects.jsonl")
EXAMPLES = gate.Check("test examples", 8, "at least 1 (evaluation.min_examples)", None, True)
NOTE = "on 4 of 8 test pictures; left out: owl (new)"


@pytest.mark.parametrize(
    ("checks", "baseline", "note"),
    [
        ([gate.Check("accuracy", 0.9, "", None, True, "with confidence 0.95")], None, ""),
        ([gate.Check("accuracy", 0.9, "", 0.8, True, "with confidence 0.95")], 0.8, ""),
        (
            [
                gate.Check("accuracy", 0.9, "", None, True),
                gate.Check("accuracy against the baseline", 0.7, "at least 0.6", 0.6, True, NOTE),
            ],
            0.6,
            NOTE,
        ),
        (
            [
                gate.Check("accuracy", 0.9, "", None, True),
                gate.Check("accuracy against the baseline", None, "", None, True, "no comparison"),
            ],
            None,
            "no comparison",
        ),
    ],
)
def test_the_end_of_a_run_says_what_was_compared(checks: list[gate.Check], baseline: float | None, note: str) -> None:
    found = outcome.Outcome(outcome.DataOutcome(SUMMARY, ()), (*checks, EXAMPLES), True, (), "serving/17")
    ending = found.ending("images", "1", unchanged=False, look="")
    assert (ending.accuracy, ending.baseline_accuracy, ending.baseline_note) == (0.9, baseline, note)
