"""From YAML and `--set a.b=c` to a checked `Config`; each error names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from configs import schema

_NULL = "tag:yaml.org,2002:null"


class _StrictError(yaml.YAMLError):
    """What YAML allows and nobody means; the message is for a person."""


class _Loader(yaml.SafeLoader):
    """Takes neither a key twice nor one without a value, where YAML takes the last and null."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, value in node.value:
            line, name = key.start_mark.line + 1, key.value
            if isinstance(key, yaml.ScalarNode) and (key.tag, name) in seen:
                raise _StrictError(f"line {line}: the key {name} is there twice; keep one")
            if _is_empty(value):
                raise _StrictError(f"line {line}: the key {name} has no value; write one, or null")
            seen.add((key.tag, str(name)))
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        node = super().compose_sequence_node(anchor)
        for value in node.value:
            if _is_empty(value):
                raise _StrictError(f"line {value.start_mark.line + 1}: an item of a list has no value; write one, or null")
        return node


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL and not node.value


def load(
    path: str | Path | None = None, overrides: tuple[str, ...] = (), settings: Mapping[str, Any] | None = None
) -> schema.Config:
    """Read a configuration.

    Args:
      path: a YAML file; None starts from the defaults.
      overrides: `a.b=c` settings, applied in order; `c` is read as YAML, and a number in the key picks a list's item.
      settings: values by key, `a.b`, applied after those.

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
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise schema.ConfigError(f"--set {override}: expected KEY=VALUE, e.g. --set training.batch_size=16")
        if not value.strip():
            raise schema.ConfigError(f"--set {override}: {key} has no value; write one, or {key}=null")
        given.pop(key, None)  # the last one wins, also over what came between
        try:
            given[key] = yaml.load(value, _Loader)  # noqa: S506 a SafeLoader
        except _StrictError as error:
            raise schema.ConfigError(f"--set {override}: {str(error).split(': ', 1)[1]}") from None
        except yaml.YAMLError:
            raise schema.ConfigError(f"--set {override}: {value!r} is not a YAML value") from None
    return parse(text, str(path or "configuration"), given | dict(settings or {}))


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
      schema.ConfigError: it is no YAML, a key is unknown, there twice or without a value, or a value is not allowed.
    """
    try:
        values = yaml.load(text, _Loader) or {}  # noqa: S506 a SafeLoader
    except _StrictError as error:
        raise schema.ConfigError(f"{source}: {error}") from None
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
    """Set the value of one key, `a.b`, in nested plain values; a section that is not there yet is made."""
    override = f"{key}={value}"
    target: Any = values
    kind: Any = schema.Config
    steps = key.split(".")
    for depth, step in enumerate(steps):
        above, last = ".".join(steps[:depth]), depth == len(steps) - 1
        index: Any = step
        if isinstance(target, list):
            if not step.isdigit() or int(step) >= len(target):
                raise schema.ConfigError(
                    f"--set {override}: {above} is a list of {len(target)};"
                    f" expected a number from 0 to {len(target) - 1}, found {step!r}"
                )
            index = int(step)
        elif not isinstance(target, dict):
            raise schema.ConfigError(f"--set {override}: {above} has no keys")
        elif (known := _keys(kind)) is not None and step not in known:
            raise schema.ConfigError(f"--set {override}: unknown key {'.'.join(steps[: depth + 1])}{_hint(step, known)}")
        kind = _below(kind, step)
        if last:
            target[index] = value
            return
        if isinstance(target, dict) and target.get(index) is None and _section(kind) is not None:
            target[index] = {}
        target = target[index]


def _section(kind: Any) -> Any:
    """What holds keys in a type, through `Annotated`, `X | None` and tuples: a section or a dict; None if nothing does."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _section(arguments[0])
    if origin in {typing.Union, types.UnionType}:
        return next((found for one in arguments if (found := _section(one)) is not None), None)
    if origin is dict or (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):
        return kind
    return None


def _keys(kind: Any) -> list[str] | None:
    """The keys that a section may have; None where any will do."""
    section = _section(kind)
    return list(section.model_fields) if hasattr(section, "model_fields") else None


def _below(kind: Any, step: str) -> Any:
    """The type of what lies at a key, or at an item, of another."""
    section = _section(kind)
    if hasattr(section, "model_fields"):
        field = section.model_fields.get(step)
        return field.annotation if field else None
    if section is not None:
        return typing.get_args(section)[1]
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    items = typing.get_args(kind)
    return items[0] if items else None


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
            section = _below(section, str(part))
        return f"unknown key {key}{_hint(str(location[-1]), _keys(section) or [])}"
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
