"""Which model a candidate is judged against, and which data new data are compared with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver
from tfx.utils import path_utils

from components.baseline_resolver import adoption
from components.data_gate import executor as data_gate
from serving import model_info, versions

CANDIDATE, MODEL, MODEL_BLESSING, VERDICT = "candidate", "model", "model_blessing", "verdict"

GONE = (metadata_store_pb2.Artifact.MARKED_FOR_DELETION, metadata_store_pb2.Artifact.DELETED)
"""States of artifacts that are there no more, or will not be in a moment."""

_log = logging.getLogger("finetune.components.baseline_resolver")

PUSHED_DESTINATION = "pushed_destination"
"""Property of TFX's PushedModel, where something was published."""


class LiveBaselineStrategy(resolver.ResolverStrategy):
    """Resolves the model that is served, other than the candidate itself.

    A model that was rolled back, or that no server could load, is none to compare with. If the candidate is what is served,
    the baseline is what that was judged against, so that a repeated run finds its result.

    Usage:
      Resolver(
          strategy_class=LiveBaselineStrategy,
          config={"serving_dir": "serving", "root": "pipeline_root/Adopted"},
          candidate=trainer.outputs["model"],
          model=Channel(type=Model),
          model_blessing=Channel(type=ModelBlessing),
      )

    Args:
      serving_dir: folder of the versions.
      root: folder for models that are served and that ML Metadata does not know.
    """

    def __init__(self, serving_dir: str, root: str):
        self._serving_dir, self._root = serving_dir, root

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]] | None:
        """Resolve the baseline.

        Args:
          store: the metadata store.
          input_dict: the `candidate`, and every `model` and `model_blessing` there is.

        Returns:
          The `candidate` as it came, and `model`, empty as long as no other model is served; None without a candidate.
        """
        if not input_dict[CANDIDATE]:
            return None
        (candidate,) = input_dict[CANDIDATE]
        siblings = _ids_in_pipeline_of(store, candidate)
        models = {model.id: model for model in input_dict[MODEL] if model.id in siblings and not _is_deleted(model)}
        baseline = self._served(store, candidate, models)
        if baseline is not None and baseline.id == candidate.id:
            baseline = models.get(_judged_against(candidate, input_dict[MODEL_BLESSING]))
        return {CANDIDATE: [candidate], MODEL: [baseline] if baseline else [], MODEL_BLESSING: []}

    def _served(
        self, store: mlmd.MetadataStore, candidate: types.Artifact, models: Mapping[int, types.Artifact]
    ) -> types.Artifact | None:
        """The model that is served, as ML Metadata knows it; None if there is none."""
        served = versions.Versions(self._serving_dir)
        number = served.served
        if number is None:
            return None
        info, digest = model_info.read(served.path(number)), model_info.digest(served.path(number))
        # Ids are those of a metadata store that may be gone.
        known = models.get(int(info.lineage.get("model", 0))) if info else None
        if known is not None and model_info.digest(path_utils.serving_model_path(known.uri)) == digest:
            return known
        for model in models.values():
            if model.get_string_custom_property(adoption.DIGEST_PROPERTY) == digest:
                return model
        _log.warning(
            "ML Metadata does not have the model that is live: the new one is compared with version %d, which is served",
            number,
        )
        return adoption.adopt(store, _pipelines_of(store, candidate), served.path(number), self._root)


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
            and was_published_from(store, verdict.id)
        ]
        own = [verdict for verdict in accepted if _statistics_id(verdict) == candidate.id]
        allowed = [verdict for verdict in own if verdict.get_int_custom_property(data_gate.ALLOWED_PROPERTY)]
        others = [verdict for verdict in accepted if _statistics_id(verdict) != candidate.id]
        return {CANDIDATE: [candidate], VERDICT: allowed[:1] or others[-1:]}


def _statistics_id(verdict: types.Artifact) -> int:
    return verdict.get_int_custom_property(data_gate.STATISTICS_PROPERTY)


def _is_deleted(artifact: types.Artifact) -> bool:
    return artifact.mlmd_artifact.state in GONE


def was_published_from(store: mlmd.MetadataStore, verdict_id: int) -> bool:
    """Return whether a run that made or used a verdict on data published its model.

    Args:
      store: the metadata store.
      verdict_id: of the verdict.
    """
    return any(
        PUSHED_DESTINATION in artifact.custom_properties
        for context in store.get_contexts_by_artifact(verdict_id)
        if context.type == "pipeline_run"
        for artifact in store.get_artifacts_by_context(context.id)
    )


def _judged_against(candidate: types.Artifact, blessings: Iterable[types.Artifact]) -> int:
    """The id of the model that a blessed one was judged against last; 0 if there was none."""
    for blessing in sorted(blessings, key=lambda artifact: artifact.id, reverse=True):
        if (
            blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY) == candidate.id
            and blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY) == constants.BLESSED_VALUE
        ):
            return blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY)
    return 0


def _pipelines_of(store: mlmd.MetadataStore, artifact: types.Artifact) -> Sequence[metadata_store_pb2.Context]:
    return [context for context in store.get_contexts_by_artifact(artifact.id) if context.type == "pipeline"]


def _ids_in_pipeline_of(store: mlmd.MetadataStore, artifact: types.Artifact) -> set[int]:
    return {
        sibling.id for context in _pipelines_of(store, artifact) for sibling in store.get_artifacts_by_context(context.id)
    }
