"""Which model a candidate is judged against."""

from __future__ import annotations

from collections.abc import Iterable

import ml_metadata as mlmd
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

CANDIDATE, MODEL, MODEL_BLESSING = "candidate", "model", "model_blessing"


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
        models = {model.id: model for model in input_dict[MODEL] if model.id in siblings - {candidate.id}}
        for blessing in sorted(input_dict[MODEL_BLESSING], key=lambda artifact: artifact.id, reverse=True):
            model_id = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY)
            blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
            if blessed == constants.BLESSED_VALUE and model_id in models:
                return {CANDIDATE: [candidate], MODEL: [models[model_id]], MODEL_BLESSING: [blessing]}
        return {CANDIDATE: [candidate], MODEL: [], MODEL_BLESSING: []}


def _ids_in_pipeline_of(store: mlmd.MetadataStore, artifact: types.Artifact) -> set[int]:
    contexts: Iterable = store.get_contexts_by_artifact(artifact.id)
    return {
        sibling.id
        for context in contexts
        if context.type == "pipeline"
        for sibling in store.get_artifacts_by_context(context.id)
    }
