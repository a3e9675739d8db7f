"""From the gate's configuration to what TensorFlow Model Analysis computes."""

from __future__ import annotations

import json

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.model_evaluator import executor
from configs import schema
from modules import features, signatures


def eval_config(config: schema.Evaluation) -> tfma.EvalConfig:
    """Return what the Evaluator computes on the served graph.

    Args:
      config: the gate's section of the configuration.

    Returns:
      Accuracy, cross-entropy and a confusion matrix, overall and by class, and what else has a bound. The thresholds let
      every model pass, since the gate judges: without one TFX judges nothing, and without one on a change it leaves the
      baseline out.
    """
    everything = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": 0.0}),
        change_threshold=tfma.GenericChangeThreshold(
            direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -1.0}
        ),
    )
    overall = config_pb2.PerSliceMetricThreshold(threshold=everything, slicing_specs=[tfma.SlicingSpec()])
    top_k = [
        tfma.MetricConfig(
            class_name="SparseTopKCategoricalAccuracy",
            config=json.dumps({"name": executor.TOP_K.format(k), "k": k}),
        )
        for k in config.min_top_k_accuracy
    ]
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(
                signature_name=signatures.EXAMPLES,
                label_key=features.LABEL,
                prediction_key=signatures.PROBABILITIES,
            )
        ],
        slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=[features.LABEL])],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(
                        class_name="SparseCategoricalAccuracy",
                        config=json.dumps({"name": executor.ACCURACY}),
                        per_slice_thresholds=[overall],
                    ),
                    *top_k,
                    tfma.MetricConfig(class_name="SparseCategoricalCrossentropy", config='{"name": "cross_entropy"}'),
                    # With no threshold on the score, the most probable class is the predicted one.
                    tfma.MetricConfig(
                        class_name="MultiClassConfusionMatrixAtThresholds",
                        config='{"name": "confusion_matrix", "thresholds": [0.0]}',
                    ),
                    tfma.MetricConfig(class_name="ExampleCount"),
                ]
            )
        ],
    )
