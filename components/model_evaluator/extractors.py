"""The extractors of the evaluation; TFX loads this module anew each time, so it holds no state."""

from __future__ import annotations

from typing import Any

import tensorflow_model_analysis as tfma

from components.model_evaluator import alignment, samples


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """Return TFMA's extractors, after that of predictions with two of ours; called by TFX's Evaluator.

    One keeps some predictions, the next gives the baseline's the candidate's order of labels.

    Args:
      eval_shared_model: the candidate, or the candidate and the baseline.
      eval_config: of the evaluation.
      tensor_adapter_config: of its input.
    """
    usual = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    (after,) = [place for place, one in enumerate(usual) if one.stage_name == "ExtractPredictions"]
    keep = tfma.extractors.Extractor("KeepSamples", samples.keeping())
    align = tfma.extractors.Extractor("AlignBaseline", alignment.aligning())
    return [*usual[: after + 1], keep, align, *usual[after + 1 :]]
