"""The extractors of the evaluation; TFX loads this module anew each time, so it holds no state."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.model_evaluator import alignment, predictions, samples, targets


class _InFullFloat32(beam.DoFn):
    """Hands on what comes, in a process that computes in all of float32; fused with what predicts."""

    def setup(self) -> None:
        tf.config.experimental.enable_tensor_float_32_execution(False)

    def process(self, element: Any) -> Any:
        yield element


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """Return TFMA's extractors, and ours around that of predictions; called by TFX's Evaluator.

    Before it, whoever predicts is told to do so in all of float32. After it, a row for each picture and some whole pictures
    are kept, and the baseline's predictions get the candidate's order of labels. What is measured are the same predictions.

    Args:
      eval_shared_model: the candidate, or the candidate and the baseline.
      eval_config: of the evaluation.
      tensor_adapter_config: of its input.
    """
    usual = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    (place,) = [place for place, one in enumerate(usual) if one.stage_name == "ExtractPredictions"]
    into = targets.current()
    before = {"InFullFloat32": beam.ParDo(_InFullFloat32())}
    after = {
        "KeepPredictions": predictions.keeping(into.predictions),
        "KeepSamples": samples.keeping(into.evaluation),
        "AlignBaseline": alignment.aligning(),
    }
    ours_before, ours_after = (
        [tfma.extractors.Extractor(name, transform) for name, transform in ours.items()] for ours in (before, after)
    )
    return [*usual[:place], *ours_before, usual[place], *ours_after, *usual[place + 1 :]]
