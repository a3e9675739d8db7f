"""From YAML and `--set a.b=c` to a checked `Config`; each error names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from configs import schema


def load(path: str | Path | None = None, overrides: tuple[str, ...] = ()) -> schema.Config:
    """Read a configuration.

    Args:
      path: a YAML file; None starts from the defaults.
      overrides: `a.b=c` settings, applied in order; `c` is read as YAML, and a number in the key picks a list's item.

    Returns:
      The checked configuration.

    Raises:
      schema.ConfigError: the file can't be read, a key is unknown or a value is not allowed.
    """
    text = ""
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise schema.ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    settings = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise schema.ConfigError(f"--set {override}: expected KEY=VALUE, e.g. --set training.batch_size=16")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise schema.ConfigError(f"--set {override}: {value!r} is not a YAML value") from None
    return parse(text, str(path or "configuration"), settings)


def parse(text: str, source: str, settings: Mapping[str, Any], origin: str = "--set") -> schema.Config:
    """Read a configuration from text.

    Args:
      text: YAML.
      source: where it comes from, for messages.
      settings: values by key, `a.b`, applied in order.
      origin: where those come from, for messages.

    Returns:
      The checked configuration.

    Raises:
      schema.ConfigError: it is no YAML, a key is unknown or a value is not allowed.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise schema.ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise schema.ConfigError(f"{source}: expected keys such as `data:` and `training:`, found {values!r:.60}")
    base = _checked(values, source)
    if not settings:
        return base
    values = base.model_dump(mode="json")
    for key, value in settings.items():
        _apply(values, key, value)
    return _checked(values, origin)


def _apply(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of one key, `a.b`, in nested plain values."""
    override = f"{key}={value}"
    target: Any = values
    *parents, last = key.split(".")
    for depth, step in enumerate([*parents, last]):
        if isinstance(target, list):
            if not step.isdigit() or int(step) >= len(target):
                raise schema.ConfigError(
                    f"--set {override}: {'.'.join(key.split('.')[:depth])} is a list of {len(target)};"
                    f" expected a number from 0 to {len(target) - 1}, found {step!r}"
                )
            index: Any = int(step)
        elif isinstance(target, dict):
            index = step
            if step not in target:
                where = ".".join([*parents, last][: depth + 1])
                raise schema.ConfigError(f"--set {override}: unknown key {where}{_hint(step, list(target))}")
        else:
            raise schema.ConfigError(f"--set {override}: {'.'.join(key.split('.')[:depth])} has no keys")
        if depth == len(parents):
            target[index] = value
        else:
            target = target[index]


def _checked(values: dict[str, Any], source: str) -> schema.Config:
    try:
        return schema.Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise schema.ConfigError("\n".join(f"{source}: {_explain(e)}" for e in error.errors())) from None


def _explain(error: Any) -> str:
    """One line for one pydantic error: key, value, what is allowed."""
    location = error["loc"]
    key = ".".join(str(part) for part in location if not str(part).startswith(("tuple[", "constrained-")))
    if error["type"] == "extra_forbidden":
        section: Any = schema.Config
        for part in location[:-1]:
            fields = getattr(section, "model_fields", {})
            section = fields[part].annotation if part in fields else schema.Phase
        return f"unknown key {key}{_hint(str(location[-1]), list(section.model_fields))}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if error["type"] == "value_error" and _is_nested(error["input"]):
        return f"{key}: {message}" if key else message  # which names the keys below it
    # An address may hold a password or a token.
    value = "(not shown)" if location[-1:] == ("url",) else repr(error["input"])
    return f"{key} = {value}: {message}"


def _is_nested(value: Any) -> bool:
    """Whether a value has keys of its own, or is a list of such."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
