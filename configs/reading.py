"""From YAML and `--set a.b=c` to a checked `Config`; each error names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from configs import endpoints, schema

_TAG = "tag:yaml.org,2002:"
_NULL = f"{_TAG}null"
_NULLS = {"null", "Null", "NULL", "~"}
_KEYS = {f"{_TAG}{kind}" for kind in ("str", "int", "merge")}
_NOT_DECIMAL = re.compile(r"[-+]?0[0-9_]+|.*:.*")
"""Octal, and minutes and seconds, as YAML 1.1 has them."""
_MOST_SHOWN = 200


class _StrictError(yaml.YAMLError):
    """What YAML allows and nobody means; the message is for a person."""


class _Loader(yaml.SafeLoader):
    """Takes neither a key twice nor one without a value, where YAML takes the last and null, and numbers as they look."""

    # There are no dates here.
    yaml_implicit_resolvers = {  # noqa: RUF012 as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in found if tag != f"{_TAG}timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.tag in {f"{_TAG}int", f"{_TAG}float"} and _NOT_DECIMAL.fullmatch(node.value):
            value = self.construct_object(node)
            line = node.start_mark.line + 1
            raise _StrictError(f"line {line}: {node.value} is read as {value} in YAML; write {value}, or put it in quotes")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, value in node.value:
            line, name = key.start_mark.line + 1, key.value
            if isinstance(key, yaml.ScalarNode) and key.tag not in _KEYS:
                read = self.construct_object(key)
                raise _StrictError(f"line {line}: the key {name} is read as {read}, which is no text; put it in quotes")
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
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL and node.value not in _NULLS


def _read(text: str, key: str = "") -> Any:
    """What YAML says; whatever is wrong with it is a YAMLError. Of a key there is one value, and nothing behind it."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if key:
            if node is None or _is_empty(node):
                raise _StrictError(f"line 1: {key} has no value; write one, or {key}=null")
            if behind := text[node.end_mark.index :].strip():
                raise _StrictError(f"line 1: {behind!r} begins a comment in YAML; put the value in quotes")
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise _StrictError("line 1: it is nested too deeply") from None
    except Exception as error:  # a tag such as !!int before what is none
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from None
    finally:
        loader.dispose()


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
        except OSError as error:
            raise schema.ConfigError(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise schema.ConfigError(f"{path}: is not UTF-8; save it as UTF-8") from None
    given: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise schema.ConfigError(f"--set {override}: expected KEY=VALUE, e.g. --set training.batch_size=16")
        given.pop(key, None)  # the last one wins, also over what came between
        try:
            given[key] = _read(value, key)
        except _StrictError as error:
            raise schema.ConfigError(f"--set {_short(override)}: {str(error).split(': ', 1)[1]}") from None
        except yaml.YAMLError:
            raise schema.ConfigError(f"--set {_short(override)}: is not a YAML value") from None
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
        values = _read(text)
    except _StrictError as error:
        raise schema.ConfigError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        raise schema.ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
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
    override = _short(f"{key}={value}")
    target: Any = values
    kind: Any = schema.Config
    steps = key.split(".")
    for depth, step in enumerate(steps):
        above, last = ".".join(steps[:depth]), depth == len(steps) - 1
        index: Any = step
        if isinstance(target, list):
            if not target:
                raise schema.ConfigError(f"--set {override}: {above} is an empty list; set all of it, {above}=[…]")
            if step not in map(str, range(len(target))):
                raise schema.ConfigError(
                    f"--set {override}: {above} is a list of {len(target)};"
                    f" expected a number from 0 to {len(target) - 1}, found {step!r}"
                )
            index = int(step)
        elif not isinstance(target, dict):
            raise schema.ConfigError(f"--set {override}: {above} has no keys")
        elif (known := _keys(kind)) is not None and step not in known:
            raise schema.ConfigError(f"--set {override}: unknown key {'.'.join(steps[: depth + 1])}{_hint(step, known)}")
        any_key = typing.get_origin(_section(kind)) is dict
        kind = _below(kind, step)
        if any_key and not last and _section(kind) is None:
            named = "{" + f'"{".".join(steps[depth:])}": {value}' + "}"
            raise schema.ConfigError(
                f"--set {override}: {above}.{step} has no keys; for a name with dots, write {above}={named}"
            )
        if last:
            target[index] = value
            return
        if isinstance(target, dict) and target.get(index) is None and _section(kind) is not None:
            target[index] = {}
        target = target[index]


def _short(override: str) -> str:
    return override if len(override) <= _MOST_SHOWN else f"{override[:_MOST_SHOWN]}…"


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
        config = schema.Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise schema.ConfigError("\n".join(f"{source}: {_explain(e)}" for e in error.errors())) from None
    if flags := [*_flags(values, config.model_dump(), "")]:
        raise schema.ConfigError("\n".join(f"{source}: {key} = {value}: should be a number" for key, value in flags))
    return config


def _flags(given: Any, taken: Any, key: str) -> Iterator[tuple[str, bool]]:
    """What was given as true or false and became a number."""
    if isinstance(given, bool) and isinstance(taken, (int, float)) and not isinstance(taken, bool):
        yield key, given
    elif isinstance(given, Mapping) and isinstance(taken, Mapping):
        for name, value in given.items():
            yield from _flags(value, taken.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(given, (list, tuple)) and isinstance(taken, (list, tuple)):
        for number, (value, became) in enumerate(zip(given, taken, strict=False)):
            yield from _flags(value, became, f"{key}.{number}")


def _explain(error: Any) -> str:
    """One line for one pydantic error: key, value, what is allowed."""
    location = error["loc"]
    key = ".".join(str(part) for part in location if not str(part).startswith(("tuple[", "constrained-")))
    if error["type"] == "extra_forbidden":
        section: Any = schema.Config
        for part in location[:-1]:
            section = _below(section, str(part))
        return f"unknown key {key}{_hint(str(location[-1]), _keys(section) or [])}"
    if error["type"] == "missing":
        return f"{key}: is missing"
    if error["type"] == "invalid_key" or location[-1:] == ("[key]",):
        return f"{key.removesuffix('.[key]')}: the key {error['input']} is no text; put it in quotes"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    if error["type"] == "value_error" and _is_nested(error["input"]):
        return f"{key}: {message}" if key else message  # which names the keys below it
    # An address may hold a password or a token.
    value = "(not shown)" if location[-1:] == ("url",) else repr(error["input"])
    if location[-1:] == ("endpoint",):
        value = endpoints.shown(value)
    return f"{key} = {value}: {message}"


def _is_nested(value: Any) -> bool:
    """Whether a value has keys of its own, or is a list of such."""
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(one, Mapping) for one in value))


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(sorted(known))}"
