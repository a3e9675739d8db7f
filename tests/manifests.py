"""Kubernetes manifests: built as `kubectl apply --kustomize` would, and checked against the schemas."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

VERSION = "1.31"
"""Of Kubernetes, whose schemas count."""
KUBECTL = Path(sysconfig.get_path("scripts"), "kubectl")


def built(folder: Path) -> list[dict[str, Any]]:
    """Build a kustomization."""
    done = subprocess.run([KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def validate(manifest: dict[str, Any]) -> None:
    """Check a manifest; unknown keys are errors.

    Raises:
      kubernetes_validate.ValidationError: it is wrong.
    """
    kubernetes_validate.validate(manifest, VERSION, strict=True)
