"""What a run may set anew: keys of the configuration as parameters of the Kubeflow pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from configs import reading, schema


class Parameter(NamedTuple):
    """A key of the configuration, the name it goes by in Kubeflow, its default, and what it means."""

    key: str
    name: str
    default: str | int | float | bool
    description: str


def parameters(config: schema.Config) -> list[Parameter]:
    """Return the parameters of a configuration: `kubeflow.parameters`, and the epochs of each phase.

    Raises:
      schema.ConfigError: a key is unknown, or its value can't be a parameter.
    """
    epochs = [f"training.phases.{number}.epochs" for number in range(len(config.training.phases))]
    found = []
    for key in dict.fromkeys([*config.kubeflow.parameters, *epochs]):
        value: Any = config
        description = ""
        for step in key.split("."):
            if isinstance(value, tuple) and step in map(str, range(len(value))):
                value = value[int(step)]
            elif step in getattr(type(value), "model_fields", {}):
                description = type(value).model_fields[step].description or ""
                value = getattr(value, step)
            else:
                raise schema.ConfigError(f"kubeflow.parameters: unknown key {key}")
        default_ones = schema.Kubeflow.model_fields["parameters"].default
        if not isinstance(value, str | int | float | bool):
            if value is None and key in default_ones:
                continue  # a bound that is off
            raise schema.ConfigError(f"kubeflow.parameters: {key} = {value!r}: a parameter needs a text or a number")
        found.append(Parameter(key, key.replace(".", "_").lower(), value, " ".join(description.split())))
    return found


def with_values(text: str, values: Mapping[str, Any]) -> schema.Config:
    """Return the configuration of a run.

    Args:
      text: the configuration that the pipeline was compiled from.
      values: of the parameters, by their names in Kubeflow.

    Raises:
      schema.ConfigError: a value is not allowed.
    """
    config = reading.parse(text, "configuration", {})
    settings = {}
    for parameter in parameters(config):
        if parameter.name in values:
            # Kubeflow sends every number as one with a fraction.
            value = values[parameter.name]
            whole = isinstance(parameter.default, int) and not isinstance(parameter.default, bool)
            settings[parameter.key] = int(value) if whole and float(value).is_integer() else value
    return reading.parse(text, "configuration", settings, "parameters of the run")
