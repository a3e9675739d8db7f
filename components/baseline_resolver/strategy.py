"""Which model a candidate is judged against, and which data new data are compared with."""

from __future__ import annotations

from collections.abc import Iterable

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

from components.data_gate import executor as data_gate

CANDIDATE, MODEL, MODEL_BLESSING, VERDICT = "candidate", "model", "model_blessing", "verdict"

PUSHED_DESTINATION = "pushed_destination"
"""Property of TFX's PushedModel, where something was published."""


class LatestBlessedBaselineStrategy(resolver.ResolverStrategy):
    """Resolves the model blessed last in this pipeline, other than the candidate itself.

    TFX's LatestBlessedModelStrategy would resolve the candidate when a run is repeated, since it was blessed in the run
    before: the Evaluator would run again, against the model itself. It also takes blessed models of any pipeline that shares
    the metadata store.

    Usage:
      Resolver(
          strategy_class=LatestBlessedBaselineStrategy,
          candidate=trainer.outputs["model"],
          model=Channel(type=Model),
          model_blessing=Channel(type=ModelBlessing),
      )
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]] | None:
        """Resolve the baseline.

        Args:
          store: the metadata store.
          input_dict: the `candidate`, and every `model` and `model_blessing` there is.

        Returns:
          The `candidate` as it came, `model` and `model_blessing`, both empty as long as no other model was blessed; None
          without a candidate.
        """
        if not input_dict[CANDIDATE]:
            return None
        (candidate,) = input_dict[CANDIDATE]
        siblings = _ids_in_pipeline_of(store, candidate)
        models = {
            model.id: model
            for model in input_dict[MODEL]
            if model.id in siblings - {candidate.id} and not _is_deleted(model)
        }
        for blessing in sorted(input_dict[MODEL_BLESSING], key=lambda artifact: artifact.id, reverse=True):
            model_id = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY)
            blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
            if blessed == constants.BLESSED_VALUE and model_id in models:
                return {CANDIDATE: [candidate], MODEL: [models[model_id]], MODEL_BLESSING: [blessing]}
        return {CANDIDATE: [candidate], MODEL: [], MODEL_BLESSING: []}


class LatestAcceptedDataStrategy(resolver.ResolverStrategy):
    """Resolves the data accepted last in this pipeline, other than the candidate, so that a repeated run finds its result.

    Accepted are the data of a run that ended with a published model: what a model was refused on is nothing to compare with.

    If the candidate itself was accepted only because the configuration allowed what was found, that is what is resolved: it
    is not asked for a second time.

    Usage:
      Resolver(
          strategy_class=LatestAcceptedDataStrategy,
          candidate=statistics_gen.outputs["statistics"],
          verdict=Channel(type=DataVerdict),
      )
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]] | None:
        """Resolve the baseline.

        Args:
          store: the metadata store.
          input_dict: the `candidate`, statistics of the new data, and every `verdict` there is.

        Returns:
          The `candidate` as it came, and `verdict`, empty as long as no other data were accepted; None without a candidate.
        """
        if not input_dict[CANDIDATE]:
            return None
        (candidate,) = input_dict[CANDIDATE]
        siblings = _ids_in_pipeline_of(store, candidate)
        accepted = [
            verdict
            for verdict in sorted(input_dict[VERDICT], key=lambda artifact: artifact.id)
            if verdict.id in siblings
            and verdict.get_int_custom_property(data_gate.ACCEPTED_PROPERTY)
            and not _is_deleted(verdict)
            and _was_published_from(store, verdict)
        ]
        own = [verdict for verdict in accepted if _statistics_id(verdict) == candidate.id]
        allowed = [verdict for verdict in own if verdict.get_int_custom_property(data_gate.ALLOWED_PROPERTY)]
        others = [verdict for verdict in accepted if _statistics_id(verdict) != candidate.id]
        return {CANDIDATE: [candidate], VERDICT: allowed[:1] or others[-1:]}


def _statistics_id(verdict: types.Artifact) -> int:
    return verdict.get_int_custom_property(data_gate.STATISTICS_PROPERTY)


def _is_deleted(artifact: types.Artifact) -> bool:
    return artifact.mlmd_artifact.state == metadata_store_pb2.Artifact.DELETED


def _was_published_from(store: mlmd.MetadataStore, verdict: types.Artifact) -> bool:
    """Whether a run that made or used a verdict published its model."""
    return any(
        PUSHED_DESTINATION in artifact.custom_properties
        for context in store.get_contexts_by_artifact(verdict.id)
        if context.type == "pipeline_run"
        for artifact in store.get_artifacts_by_context(context.id)
    )


def _ids_in_pipeline_of(store: mlmd.MetadataStore, artifact: types.Artifact) -> set[int]:
    contexts: Iterable = store.get_contexts_by_artifact(artifact.id)
    return {
        sibling.id
        for context in contexts
        if context.type == "pipeline"
        for sibling in store.get_artifacts_by_context(context.id)
    }
