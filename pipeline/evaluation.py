"""From the gate's configuration to what TensorFlow Model Analysis evaluates and validates."""

from __future__ import annotations

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from configs import schema
from modules import features, signatures

ACCURACY = "accuracy"


def eval_config(config: schema.Evaluation) -> tfma.EvalConfig:
    """Return what the Evaluator computes on the served graph, and the bounds on the whole test split.

    Args:
      config: the gate's section of the configuration.

    Returns:
      Accuracy, cross-entropy and a confusion matrix, overall and by class. There is always a lower bound on accuracy, 0 if
      none is configured: TFX blesses nothing without a threshold.
    """
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": config.min_accuracy or 0.0})
    )
    if config.max_accuracy_drop is not None:
        threshold.change_threshold.CopyFrom(
            tfma.GenericChangeThreshold(
                direction=tfma.MetricDirection.HIGHER_IS_BETTER, absolute={"value": -config.max_accuracy_drop}
            )
        )
    overall = config_pb2.PerSliceMetricThreshold(threshold=threshold, slicing_specs=[tfma.SlicingSpec()])
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
                        config=f'{{"name": "{ACCURACY}"}}',
                        per_slice_thresholds=[overall],
                    ),
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
