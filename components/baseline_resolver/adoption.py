"""Writes the model of a version down in ML Metadata, where that does not know it: a new one is still compared with it.

Somebody may have deleted the metadata or all artifacts, or rolled back to a version of long ago.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from serving import files, model_info

DIGEST_PROPERTY = "adopted_digest"
"""Property of an adopted model: its digest."""

_EXECUTION_TYPE = "finetune.Adoption"


def adopt(
    store: mlmd.MetadataStore, contexts: Sequence[metadata_store_pb2.Context], version: str, root: str
) -> standard_artifacts.Model:
    """Copy the model of a version, and write it down.

    Args:
      store: the metadata store.
      contexts: of the pipeline.
      version: its folder.
      root: folder for adopted models.

    Returns:
      The model's artifact.
    """
    digest = model_info.digest(version)
    model = standard_artifacts.Model()
    # Nobody else writes there, nor deletes what was there once.
    model.uri = os.path.join(root, "model", f"{digest}-{uuid.uuid4().hex[:8]}")
    target = path_utils.serving_model_dir(model.uri)
    for name in files.list_files(version):
        if name not in model_info.ADDED:
            path = os.path.join(target, name)
            fileio.makedirs(os.path.dirname(path))
            fileio.copy(os.path.join(version, name), path)
    model.set_string_custom_property(DIGEST_PROPERTY, digest)
    _put(store, model, contexts)
    return model


def _put(store: mlmd.MetadataStore, model: standard_artifacts.Model, contexts: Sequence[metadata_store_pb2.Context]) -> None:
    """Write a model down as what an execution made: TFX's resolvers see no others."""
    type_id = store.put_execution_type(metadata_store_pb2.ExecutionType(name=_EXECUTION_TYPE))
    execution = metadata_store_pb2.Execution(type_id=type_id, last_known_state=metadata_store_pb2.Execution.COMPLETE)
    artifact = model.mlmd_artifact
    artifact.type_id = store.put_artifact_type(model.artifact_type)
    artifact.state = metadata_store_pb2.Artifact.LIVE
    event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
    event.path.steps.add(key="model")
    event.path.steps.add(index=0)
    _, (artifact_id,), _ = store.put_execution(execution, [(artifact, event)], list(contexts))
    model.id = artifact_id
