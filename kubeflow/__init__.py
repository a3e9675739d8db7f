"""The pipeline on Kubeflow Pipelines: a container per node, each of which runs TFX's launcher."""

from configs import environment

environment.prepare()
