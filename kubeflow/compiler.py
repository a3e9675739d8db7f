"""From a configuration to a pipeline for Kubeflow Pipelines v2: a container task for each group of TFX nodes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler as kfp_compiler
from kfp import dsl, kubernetes
from kfp.dsl import structures
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.orchestration.local import runner_utils
from tfx.proto.orchestration import executable_spec_pb2

from configs import schema
from kubeflow import folders, groups, outputs, parameters, tasks
from pipeline import node
from pipeline.pipeline import create_pipeline

MAX_CONFIG_BYTES = 20_000
"""Every task carries it, and Argo writes each task's description into the workflow's status and MySQL several times."""
MAX_PIPELINE_BYTES = 1_000_000
"""Kubernetes stores no object of 1.5 MB or more."""

RUN_ID = "run_id"
"""The input of every task with the id of its run."""
_USER = 1000
"""Of the image, as a number."""


class CompileError(ValueError):
    """A configuration that can't become a pipeline."""


def compile_pipeline(config: schema.Config, image: str, output: Path) -> int:
    """Write the pipeline of a configuration, schema 2.1, as YAML.

    The configuration travels in the pipeline, so that one image serves many; in the container, TFX's intermediate
    representation is made from it, with the parameters of the run, the files of the cluster and the code of the image.

    Args:
      config: `data.source` must be set, as the containers see it.
      image: with this project in it, as the cluster pulls it.
      output: file to write.

    Returns:
      The number of tasks.

    Raises:
      CompileError: it is too large.
      schema.ConfigError: a key of the section `kubeflow` names what is not there.
    """
    ir = node.compile_for_run(create_pipeline(config, **folders.folders(config)._asdict()), "compiled")
    text = config.model_dump_json()
    if len(text.encode()) > MAX_CONFIG_BYTES:
        raise CompileError(
            f"the configuration has {len(text.encode())} bytes, {MAX_CONFIG_BYTES} are possible: more breaks limits of Argo"
            " and MySQL. Long lists in it, such as evaluation.min_recall_of, take the room"
        )
    nodes = {one.pipeline_node.node_info.id: one.pipeline_node for one in ir.nodes}
    for name in config.kubeflow.nodes:
        if name not in nodes:
            raise schema.ConfigError(f"kubeflow.nodes: unknown node {name}; there are {', '.join(nodes)}")
    deployment = runner_utils.extract_local_deployment_config(ir)
    on_beam = {
        name
        for name in nodes
        if isinstance(runner_utils.extract_executor_spec(deployment, name), executable_spec_pb2.BeamExecutableSpec)
    }
    uncached = [name for name in nodes if not tasks.settings(config, name).cache]
    run_parameters = parameters.parameters(config)
    check_group = groups.Group((tasks.UP_TO_DATE,))
    made = groups.groups(config, nodes)

    def task_of(group: groups.Group, values: dict[str, Any]) -> dsl.PipelineTask:
        own = uncached if group == check_group else [one for one in uncached if one in group.nodes]
        # The driver fills the placeholder in where it is the whole value of a task's input, and nowhere else.
        task = _component(group, image, text, own, run_parameters)(**values, **{RUN_ID: dsl.PIPELINE_JOB_ID_PLACEHOLDER})
        _equip(task, config, tasks.of_pod(config, group.nodes, on_beam))
        return task

    def pipeline(*channels: Any) -> None:
        values = dict(zip((parameter.name for parameter in run_parameters), channels, strict=True))
        # A night without new pictures is over after this task, instead of after a task for each node. It keeps the name of
        # its key: servers before 2.16 look for whose output they need by the name that is shown (kubeflow/pipelines#11938).
        check = task_of(check_group, values)
        with dsl.If(check.output == outputs.NO, name="due"):
            tasks_of: dict[str, dsl.PipelineTask] = {}
            for group in made:
                task = task_of(group, values)
                task.set_display_name(group.title)
                upstream = (one for name in group.nodes for one in nodes[name].upstream_nodes)
                task.after(*dict.fromkeys(tasks_of[one] for one in upstream if one not in group.nodes))
                tasks_of |= dict.fromkeys(group.nodes, task)
                if "InfraValidator" in group.nodes:
                    # It starts a pod, and asks its environment where.
                    kubernetes.use_field_path_as_env(task, "KFP_NAMESPACE", "metadata.namespace")

    pipeline.__signature__ = _signature(run_parameters, defaults=True)  # type: ignore[attr-defined]
    pipeline.__doc__ = "\n".join(
        [
            f"From pictures to a served classifier: {config.name}.",
            "",
            "Args:",
            *(f"  {parameter.name}: {parameter.key}. {parameter.description}" for parameter in run_parameters),
        ]
    )
    compiled = dsl.pipeline(name=config.name)(pipeline)
    kfp_compiler.Compiler().compile(compiled, str(output))
    if output.stat().st_size > MAX_PIPELINE_BYTES:
        raise CompileError(f"{output} has {output.stat().st_size} bytes, {MAX_PIPELINE_BYTES} are possible")
    return len(made) + 1


def _signature(run_parameters: list[parameters.Parameter], defaults: bool) -> inspect.Signature:
    return inspect.Signature(
        [
            inspect.Parameter(
                parameter.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=type(parameter.default),
                default=parameter.default if defaults else inspect.Parameter.empty,
            )
            for parameter in run_parameters
        ]
    )


def _component(
    group: groups.Group, image: str, text: str, uncached: list[str], run_parameters: list[parameters.Parameter]
) -> Callable[..., dsl.PipelineTask]:
    """The container of a group. What it is asked and what it says go through `{{$}}`, KFP's description of a task."""

    def component(*_: Any, **__: Any) -> dsl.ContainerSpec:
        return dsl.ContainerSpec(
            image=image,
            command=["finetune-node"],
            args=[
                *(word for one in group.nodes for word in ("--node", one)),
                *("--run-id", f"{{{{$.inputs.parameters['{RUN_ID}']}}}}"),
                *("--config", text),
                *("--task", "{{$}}"),
                *(word for one in uncached for word in ("--no-cache", one)),
            ],
        )

    component.__name__ = group.name
    inputs = _signature(run_parameters, defaults=False)
    own = [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
        for key, annotation in {RUN_ID: str, **outputs.of(group.nodes)}.items()
    ]
    component.__signature__ = inputs.replace(parameters=[*inputs.parameters.values(), *own])  # type: ignore[attr-defined]
    return dsl.container_component(component)


def _equip(task: dsl.PipelineTask, config: schema.Config, settings: schema.Task) -> None:
    """Give a task its resources, place, retries, volumes and secrets."""
    # TFX has a cache of its own, which knows the code.
    task.set_caching_options(False)
    if settings.cpu:
        task.set_cpu_request(settings.cpu)
    if settings.memory:
        task.set_memory_request(settings.memory)
        task.set_memory_limit(settings.memory)
    if settings.accelerator:
        task.set_accelerator_type(settings.accelerator)
        task.set_accelerator_limit(settings.accelerators or 1)
    # `restricted` of Kubernetes' pod security standards; what else that asks for, Kubeflow Pipelines sets itself.
    kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_USER, run_as_non_root=True)
    if settings.retries:
        # For pods that were lost; a node that failed is tried again in its pod.
        policy = _RetryPolicy(settings.retries, f"{settings.retry_seconds}s", 2.0, f"{tasks.retry_window(settings)}s")
        task._task_spec.retry_policy = policy
    if pod_seconds := tasks.pod_seconds(settings):
        kubernetes.set_timeout(task, pod_seconds)
    for key, value in (settings.node_selector or {}).items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in settings.tolerations or ():
        kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    kubernetes.set_image_pull_policy(task, config.kubeflow.image_pull_policy)
    for volume in (config.kubeflow.volume, *config.kubeflow.volumes):
        kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.path)
    for secret in config.kubeflow.secrets:
        kubernetes.use_secret_as_env(task, secret.name, secret.variables)


@dataclasses.dataclass
class _RetryPolicy(structures.RetryPolicy):
    """kfp's, without its bound of an hour, from a task's first start, on the time in which it is tried again."""

    def to_proto(self) -> pipeline_spec_pb2.PipelineTaskSpec.RetryPolicy:
        proto = super().to_proto()
        proto.backoff_max_duration.FromSeconds(structures.convert_duration_to_seconds(str(self.backoff_max_duration)))
        return proto
