"""What came of a run: its data, accuracy, baseline, the gate's word and where the model lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import ml_metadata as mlmd
import tensorflow_model_analysis as tfma
from ml_metadata.proto import metadata_store_pb2
from tfx.components.evaluator import constants as evaluator_constants

from components.data_gate import executor, findings
from components.image_example_gen import rejects
from components.image_example_gen.executor import PICTURES_PROPERTY
from pipeline import evaluation

_RESOLVER = "tfx.dsl.components.common.resolver.Resolver"
_PUSHED_DESTINATION = "pushed_destination"


@dataclasses.dataclass(frozen=True)
class DataOutcome:
    """What ingestion and the gate for data made of a source.

    Attributes:
      summary: pictures by split and label, rejects and copies.
      findings: what speaks against the data.
    """

    summary: rejects.Summary
    findings: tuple[findings.Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing was found that is refused."""
        return not any(finding.severity == findings.REFUSED for finding in self.findings)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a finished run.

    Attributes:
      data: what it was trained on.
      accuracy: on the test split, 0 to 1.
      examples: pictures in the test split.
      baseline_accuracy: of the last blessed model on the same pictures; None if there is none.
      blessed: whether the gate let the model pass.
      refusals: the bounds that were not met, a line each.
      pushed_to: folder of the pushed version; None if the model was refused.
    """

    data: DataOutcome
    accuracy: float
    examples: int
    baseline_accuracy: float | None
    blessed: bool
    refusals: tuple[str, ...]
    pushed_to: str | None


def read(connection: metadata_store_pb2.ConnectionConfig, run_id: str) -> Outcome:
    """Read the result of a finished run from the metadata store and the artifacts.

    Args:
      connection: of the metadata store.
      run_id: as `local_runner.run` returned it.
    """
    artifacts = _outputs_of_run(mlmd.MetadataStore(connection), run_id)
    evaluated = artifacts["ModelEvaluation"].uri
    blessing = artifacts["ModelBlessing"].custom_properties[evaluator_constants.ARTIFACT_PROPERTY_BLESSED_KEY]
    blessed = blessing.int_value == evaluator_constants.BLESSED_VALUE
    metrics = _overall_metrics(evaluated)
    baseline = metrics.get(tfma.BASELINE_KEY)
    # TFMA names the candidate only where there is a baseline to tell it from.
    candidate = metrics[tfma.CANDIDATE_KEY if baseline else ""]
    pushed = artifacts["PushedModel"].custom_properties
    return Outcome(
        data=_data_outcome(artifacts),
        accuracy=candidate[evaluation.ACCURACY],
        examples=int(candidate["example_count"]),
        baseline_accuracy=baseline[evaluation.ACCURACY] if baseline else None,
        blessed=blessed,
        refusals=tuple(_refusals(tfma.load_validation_result(evaluated))),
        pushed_to=pushed[_PUSHED_DESTINATION].string_value if _PUSHED_DESTINATION in pushed else None,
    )


def read_data(connection: metadata_store_pb2.ConnectionConfig, run_id: str) -> DataOutcome:
    """Read what a run, finished or not, made of its data; its gate for data must have let it pass.

    Args:
      connection: of the metadata store.
      run_id: as `local_runner.run` returned it.
    """
    return _data_outcome(_outputs_of_run(mlmd.MetadataStore(connection), run_id))


def read_pictures(connection: metadata_store_pb2.ConnectionConfig, execution_id: int) -> int:
    """Return the number of pictures that an execution ingested, 0 if it is not one that does.

    Args:
      connection: of the metadata store.
      execution_id: of any node.
    """
    outputs = _outputs(mlmd.MetadataStore(connection), [execution_id])
    return max((artifact.custom_properties[PICTURES_PROPERTY].int_value for artifact in outputs), default=0)


def _data_outcome(outputs: dict[str, metadata_store_pb2.Artifact]) -> DataOutcome:
    found = executor.read_findings(outputs["DataVerdict"].uri)
    return DataOutcome(rejects.read_summary(outputs["Rejects"].uri), tuple(found))


def _outputs_of_run(store: mlmd.MetadataStore, run_id: str) -> dict[str, metadata_store_pb2.Artifact]:
    """What the nodes of a run made, or took from the cache, by type; not what its resolvers looked up."""
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    made_by = [execution.id for execution in store.get_executions_by_context(context.id) if execution.type != _RESOLVER]
    return {artifact.type: artifact for artifact in _outputs(store, made_by)}


def _outputs(store: mlmd.MetadataStore, execution_ids: Sequence[int]) -> Sequence[metadata_store_pb2.Artifact]:
    events = store.get_events_by_execution_ids(execution_ids)
    return store.get_artifacts_by_id(
        {event.artifact_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT}
    )


def _overall_metrics(evaluated: str) -> dict[str, dict[str, float]]:
    """The metrics over the whole split, by model name."""
    found: dict[str, dict[str, float]] = {}
    for metrics in tfma.load_metrics(evaluated):
        if metrics.slice_key.single_slice_keys:
            continue
        for item in metrics.metric_keys_and_values:
            if item.value.HasField("double_value") and not item.key.is_diff:
                found.setdefault(item.key.model_name, {})[item.key.name] = item.value.double_value.value
    return found


def _refusals(result: tfma.ValidationResult) -> Iterator[str]:
    """A line for each bound that was not met: what was found, what was asked for, by how much it fell short."""
    if result.validation_ok:
        return
    for in_slice in result.metric_validations_per_slice:
        for failure in in_slice.failures:
            name, found = failure.metric_key.name, failure.metric_value.double_value.value
            if failure.metric_key.is_diff:
                allowed = -failure.metric_threshold.change_threshold.absolute.value
                yield (
                    f"{name} fell by {-found:.4f} against the last blessed model;"
                    f" evaluation.max_accuracy_drop allows {allowed:g}"
                )
            else:
                bound = failure.metric_threshold.value_threshold.lower_bound.value
                yield f"{name} {found:.4f} is {bound - found:.4f} below evaluation.min_accuracy = {bound:g}"
    if result.missing_thresholds or result.missing_slices:
        yield "a bound was set on a metric that could not be computed"
