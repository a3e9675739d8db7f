"""The guide to the configuration, as Markdown: every key with its default, what is allowed and what it does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from configs import schema

_HEAD = """\
# Configuration

One YAML file says all that differs between two projects; what is not in it is the reference recipe. Read next:
[training](training.md), [the gate](gate.md), [data](data.md).

```sh
finetune config show --config photos.yaml --set training.batch_size=16    # the effective configuration
```

- `--set training.batch_size=16` overrides one key, also within lists: `--set training.phases.0.epochs=3`. The last one wins.
- Unknown keys, empty values and keys that are there twice are refused, with the key that was meant.
- Numbers are decimal and words are words: neither `yes` nor `010` is a number.
- What can't be kept to (a pattern that matches nothing, a warm-up as long as its phase) is refused before anything runs.
- A change makes anew only what depends on it.

This page is what `finetune config schema --format markdown` prints. `finetune config schema` alone prints the JSON schema,
by which editors complete and check.
"""
_COLUMNS = "| key | default | allowed | what it does |\n|---|---|---|---|"


def markdown() -> str:
    """Return the guide: a heading a section, a row a key."""
    described = schema.Config.model_json_schema()
    named, lines = described["$defs"], [_HEAD]
    seen: dict[tuple[str, str], str] = {}
    for path, section, defaults in _sections("", described, schema.Config().model_dump(mode="json"), named):
        title = path or "At the top"
        lines += [f"## {title}", "", _text(section), ""]
        if (before := seen.setdefault((section["title"], str(defaults)), title)) != title:
            lines += [f"The keys are those of [{before}](#{_anchor(before)}).", ""]
            continue
        lines += [_COLUMNS, *(_row(key, of, defaults) for key, of in _keys(section, named)), ""]
    return "\n".join(lines)


def _sections(
    path: str, section: Mapping[str, Any], defaults: Mapping[str, Any], named: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each section, those above before those within, with its path, its schema and the defaults of its keys."""
    yield path, section, defaults
    for key, described in section["properties"].items():
        name, kind = _section_of(described)
        if name is not None:
            own = None if kind else defaults.get(key)
            of_keys = {key: of["default"] for key, of in named[name]["properties"].items() if "default" in of}
            inner = {**named[name], "description": _description(described, named)}
            yield from _sections(f"{path}.{key}".lstrip(".") + kind, inner, own or of_keys, named)


def _anchor(title: str) -> str:
    """Of a heading, as GitHub and others make it."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _section_of(described: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the name of the section that a key holds, or None, and whether it holds a list of them, or some by name."""
    for part in (described, *described.get("anyOf", ())):
        for kind, found in (("", part), ("[]", part.get("items", {})), (".NAME", part.get("additionalProperties", {}))):
            if isinstance(found, Mapping) and "$ref" in found:
                return found["$ref"].rsplit("/", 1)[-1], kind
    return None, ""


def _keys(section: Mapping[str, Any], named: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the keys of a section that are more than a section of their own."""
    for key, described in section["properties"].items():
        name, kind = _section_of(described)
        if name is None or kind or "anyOf" in described:
            yield key, {**described, "description": _description(described, named)}


def _description(described: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """What a key says of itself, or the section that it holds."""
    name, _ = _section_of(described)
    return described.get("description") or ("" if name is None else named[name]["description"])


def _row(key: str, described: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    default = _code(defaults[key]) if key in defaults else "required"
    return f"| `{key}` | {_cell(default)} | {_cell(_allowed(described))} | {_cell(_text(described))} |"


def _code(value: Any) -> str:
    """A value in one line of YAML; what has several is shown by the command alone."""
    if isinstance(value, (list, dict)) and value and any(isinstance(inner, (list, dict)) for inner in value):
        return "see `finetune config show`"
    written = json.dumps(value, ensure_ascii=False)
    return f"`{value if isinstance(value, str) else written}`"


def _allowed(described: Mapping[str, Any]) -> str:
    """What a key may be, in words."""
    if "anyOf" in described:
        return ", or ".join(dict.fromkeys(_allowed(part) for part in described["anyOf"]))
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return ", ".join(f"`{value}`" for value in described["enum"])
    name, kind = _section_of(described)
    if name is not None:
        return {"": "a section", "[]": "a list of sections", ".NAME": "sections by name"}[kind]
    return _WORDS[described.get("type", "object")](described)


def _number(described: Mapping[str, Any]) -> str:
    bounds = [f"{sign} {described[key]:.15g}" for key, sign in _SIGNS.items() if key in described]
    if {"minimum", "maximum"} <= described.keys():
        bounds = [f"{described['minimum']:.15g} to {described['maximum']:.15g}"]
    return " ".join([described["type"], " and ".join(bounds)]).strip()


def _list(described: Mapping[str, Any]) -> str:
    if "prefixItems" in described:
        inner = list(dict.fromkeys(_allowed(part) for part in described["prefixItems"]))
        return f"[{', '.join(inner)}]" if len(inner) > 1 else f"{len(described['prefixItems'])} of: {inner[0]}"
    return f"list of: {_allowed(described['items'])}"


def _names(described: Mapping[str, Any]) -> str:
    return f"by name: {_allowed(described['additionalProperties'])}"


_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_WORDS = {
    "string": lambda described: f"text like `{described['pattern']}`" if "pattern" in described else "text",
    "integer": _number,
    "number": _number,
    "boolean": lambda _: "`true`, `false`",
    "null": lambda _: "`null`",
    "array": _list,
    "object": _names,
}


def _text(described: Mapping[str, Any]) -> str:
    return " ".join(described.get("description", "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
