"""What a published version says of itself: `model_info.json` beside the SavedModel."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import pydantic

from serving import files

FILE = "model_info.json"
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
"""What TensorFlow Serving replays before a version answers anybody."""
ADDED = {FILE, WARMUP_FILE}
"""The files of a version that are not the model's."""


class ModelInfo(pydantic.BaseModel):
    """Where a version comes from, what it can do, and what it answered when it was published."""

    model_config = pydantic.ConfigDict(frozen=True)

    version: int
    published: str
    """When, ISO 8601, UTC."""
    name: str
    """Of the model at the server."""
    labels: list[str]
    """In the order of the probabilities."""
    image: dict[str, Any]
    """Height and width that pictures are resized to, in pixels, and how files are prepared."""
    metrics: dict[str, float]
    """What the gate found on the test split."""
    git_revision: str | None
    """Of this project's code, if it is known."""
    config_fingerprint: str
    """SHA-256 of the effective configuration."""
    data_fingerprint: str
    """SHA-256 of the source's listing: names, sizes and times."""
    lineage: dict[str, str]
    """The run, and ids of artifacts in ML Metadata."""
    versions: dict[str, str]
    """Of TensorFlow and of this project."""
    warmup: list[list[float]]
    """The probabilities of each picture in the warm-up requests."""
    computed_in: str | None = None
    """What those were computed in, as `modules.devices.computes_in` says it; None if it is not known."""
    model_digest: str
    """SHA-256 over the SavedModel as it was trained."""
    files: dict[str, str]
    """SHA-256 of each file of the version but this one."""


def read(version: str) -> ModelInfo | None:
    """Read what a version says of itself.

    Args:
      version: its folder.

    Returns:
      None if it says nothing, or nothing that can be read.
    """
    text = files.read(os.path.join(version, FILE))
    try:
        return ModelInfo.model_validate_json(text) if text is not None else None
    except pydantic.ValidationError:
        return None


def digest(folder: str) -> str:
    """Return what tells a model from all others: SHA-256 over the files that training exported.

    Args:
      folder: of a version, or of an exported model, wherever TensorFlow reads.
    """
    if files.is_local(folder) and (info := read(folder)):
        return info.model_digest
    exported = {name: found for name, found in files.digests(folder).items() if name not in ADDED}
    return hashlib.sha256(json.dumps(exported).encode()).hexdigest()


def torn(version: str, copied: Mapping[str, str]) -> list[str]:
    """Return what of a version is not as it was written, a line each.

    Args:
      version: its folder, before anybody else reads it.
      copied: SHA-256 of the exported model's files.
    """
    found, info = files.digests(version), read(version)
    # What says something of the version is written anew.
    lines = [f"{name} is another" for name in sorted(copied.keys() - ADDED) if found.get(name) != copied[name]]
    return lines + (differences(version, info) if info is not None else [])


def differences(version: str, info: ModelInfo) -> list[str]:
    """Return what is not as it was when a version was published, a line each.

    Args:
      version: its folder.
      info: as `read` returned it.
    """
    found = files.digests(version)
    found.pop(FILE, None)
    return [
        *(f"{name} is missing" for name in sorted(info.files.keys() - found.keys())),
        *(f"{name} does not belong there" for name in sorted(found.keys() - info.files.keys())),
        *(f"{name} was changed" for name in sorted(found.keys() & info.files.keys()) if found[name] != info.files[name]),
    ]
