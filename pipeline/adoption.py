"""Makes the model that is served one to compare with, where ML Metadata knows no other.

Somebody may have deleted the metadata or all artifacts; a new model is still held against the one that it would replace.
"""

from __future__ import annotations

import logging
import os
import shutil

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.components.evaluator import constants
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from pipeline.journal import Connection
from serving import files, versions

_FOLDER = "Adopted"
_EXECUTION_TYPE = "finetune.Adoption"
_LIVE = metadata_store_pb2.Artifact.LIVE
_log = logging.getLogger("finetune.pipeline.adoption")


def adopt(connection: Connection, pipeline_name: str, pipeline_root: str, serving_dir: str) -> int | None:
    """Write the live version down as a blessed model, if there is none whose files are there.

    Args:
      connection: of the metadata store.
      pipeline_name: of the pipeline.
      pipeline_root: folder for the artifacts.
      serving_dir: where its versions are.

    Returns:
      The version that was adopted; None if there was no need, or nothing is served.
    """
    served = versions.Versions(serving_dir)
    if served.live is None or served.live not in served.numbers():
        return None
    store = mlmd.MetadataStore(connection)
    context = _pipeline_context(store, pipeline_name)
    if _has_blessed_model(store, context.id):
        return None
    root = os.path.join(pipeline_root, _FOLDER)
    model = standard_artifacts.Model()
    model.uri = os.path.join(root, "model", str(served.live))
    shutil.rmtree(model.uri, ignore_errors=True)
    files.copy(served.path(served.live), path_utils.serving_model_dir(model.uri), last="saved_model.pb")
    blessing = standard_artifacts.ModelBlessing()
    blessing.uri = os.path.join(root, "blessing", str(served.live))
    os.makedirs(blessing.uri, exist_ok=True)
    files.write(os.path.join(blessing.uri, "BLESSED"), "")
    (model.id,) = _put(store, {"model": model}, context)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.BLESSED_VALUE)
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    _put(store, {"blessing": blessing}, context)
    _log.warning(
        "ML Metadata knows no model that passed: the new one is compared with version %d, which is served", served.live
    )
    return served.live


def _pipeline_context(store: mlmd.MetadataStore, name: str) -> metadata_store_pb2.Context:
    found = store.get_context_by_type_and_name("pipeline", name)
    if found is None:
        type_id = store.put_context_type(metadata_store_pb2.ContextType(name="pipeline"))
        store.put_contexts([metadata_store_pb2.Context(type_id=type_id, name=name)])
        found = store.get_context_by_type_and_name("pipeline", name)
    return found


def _has_blessed_model(store: mlmd.MetadataStore, context_id: int) -> bool:
    artifacts = {one.id: one for one in store.get_artifacts_by_context(context_id) if one.state == _LIVE}
    models = {one.id for one in artifacts.values() if one.type == standard_artifacts.Model.TYPE_NAME}
    return any(
        one.type == standard_artifacts.ModelBlessing.TYPE_NAME
        and one.custom_properties[constants.ARTIFACT_PROPERTY_BLESSED_KEY].int_value == constants.BLESSED_VALUE
        and one.custom_properties[constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY].int_value in models
        for one in artifacts.values()
    )


def _put(store: mlmd.MetadataStore, outputs: dict[str, types.Artifact], context: metadata_store_pb2.Context) -> list[int]:
    """Write artifacts down as what an execution made: TFX's resolvers see no others."""
    type_id = store.put_execution_type(metadata_store_pb2.ExecutionType(name=_EXECUTION_TYPE))
    execution = metadata_store_pb2.Execution(type_id=type_id, last_known_state=metadata_store_pb2.Execution.COMPLETE)
    made = []
    for key, artifact in outputs.items():
        artifact.mlmd_artifact.type_id = store.put_artifact_type(artifact.artifact_type)
        artifact.mlmd_artifact.state = _LIVE
        event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
        event.path.steps.add(key=key)
        event.path.steps.add(index=0)
        made.append((artifact.mlmd_artifact, event))
    _, artifact_ids, _ = store.put_execution(execution, made, [context])
    return list(artifact_ids)
