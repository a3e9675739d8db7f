"""Accepts a Kubernetes with Kubeflow Pipelines, the one that KUBECONFIG and KFP_HOST name: what `make cluster-test` runs.

  kubectl port-forward --namespace kubeflow svc/ml-pipeline 8888:8888 &
  export KUBECONFIG=… KFP_HOST=http://localhost:8888
  make cluster-test IMAGE=registry.example/finetune:1

Half an hour on two cores and 12 GiB. All that it makes has a name of its own and is removed at the end, also after Ctrl-C.
Each step says what it saw; the exit code is 1 if one failed.
"""

from __future__ import annotations

import sys

import click

from tests import acceptance
from tests.cluster import cluster, steps


@click.command()
@click.option("--image", envvar="IMAGE", required=True, help="With this project, as the cluster pulls it.")
@click.option(
    "--load", envvar="LOAD", help="Command that hands it to the cluster, e.g. 'kind load docker-image finetune:1'."
)
@click.option("--host", envvar="KFP_HOST", required=True, help="Of Kubeflow Pipelines.")
@click.option("--namespace", envvar="NAMESPACE", default="kubeflow", show_default=True, help="Of the runs.")
@click.option(
    "--manifests",
    envvar="MANIFESTS",
    type=click.Path(exists=True, file_okay=False),
    default="kubeflow/manifests/one-machine",
    show_default=True,
    help="Kustomization to apply, by a name of its own.",
)
@click.option(
    "--host-path",
    envvar="HOST_PATH",
    metavar="FOLDER",
    help="Folder of the node for volumes, where the cluster has no storage of its own.",
)
@click.option(
    "--serving/--no-serving", envvar="SERVING", default=True, show_default=True, help="Whether it has TensorFlow Serving."
)
@click.option(
    "--tasks",
    envvar="TASKS",
    type=click.Choice(["grouped", "one_per_node"]),
    default="grouped",
    show_default=True,
    help="Which nodes share a pod: kubeflow.tasks.",
)
@click.option("--only", multiple=True, metavar="STEP", help="Only these and those that set up.")
@click.option("--keep", is_flag=True, help="Remove nothing, to look at it.")
def main(only: tuple[str, ...], keep: bool, **settings: object) -> None:
    """Accept a cluster."""
    place = cluster.Cluster(**settings)  # type: ignore[arg-type]
    passed = failed = 0
    try:
        passed, failed = acceptance.go_through(steps.all_of(place), only)
    finally:
        if not keep:
            print("\n--- everything that was made is removed", flush=True)
            place.remove()
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
