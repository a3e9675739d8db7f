"""The page of a run: one file, whole without JavaScript, that loads nothing from anywhere."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import yaml

from components.run_report import executor, sections
from components.run_report.facts import Facts
from components.run_report.shown import Shown

FILE = executor.FILE

_HERE = Path(__file__).parent
_PARTS: dict[str, Callable[[Facts, Shown], dict[str, Any]]] = {
    "gate": sections.gate_table,
    "changed": sections.changed,
    "answers": sections.answers,
    "doubts": sections.doubts,
    "training": sections.training,
    "data": sections.data,
    "history": sections.history,
}
_CONTENTS = {
    "gate": "gate",
    "changed": "changes",
    "flips": "against the live model",
    "mistakes": "mistakes",
    "confusion": "confusion",
    "classes": "classes",
    "doubts": "doubtful labels",
    "trust": "scores",
    "training": "training",
    "data": "data",
    "history": "history",
    "lineage": "lineage",
}
_MOST_CHARACTERS = 4_500_000
"""Of a page; a longer one does without pictures."""
_LETTERS = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
_DIRECTIONS = {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Characters that turn round what follows them."""
_RIGHT_TO_LEFT = re.compile(rf"{_LETTERS}+(?:\s+{_LETTERS}+)*")
_log = logging.getLogger("finetune.components.run_report")


def render(facts: Facts) -> str:
    """Return the page of a run, as HTML. What can't be made of it is left out, with the reason.

    Args:
      facts: of the run.
    """
    found = _render(facts)
    return found if len(found) < _MOST_CHARACTERS else _render(dataclasses.replace(facts, pictures=False))


def _render(facts: Facts) -> str:
    shown = Shown(facts)
    parts = {name: _made(name, part, facts, shown) for name, part in _PARTS.items()}
    text = (_HERE / "page.html.j2").read_text(encoding="utf-8")
    template = _environment().from_string(text)
    given = {
        "facts": facts,
        "sentence": sections.sentence(facts),
        "took": sections.took(facts),
        "style": (_HERE / "page.css").read_text(encoding="utf-8"),
        "script": (_HERE / "page.js").read_text(encoding="utf-8"),
        "configuration": yaml.safe_dump(dict(facts.configuration), sort_keys=False, allow_unicode=True)
        if facts.configuration
        else "",
        **parts,
    }
    return template.render(given, contents=_CONTENTS)


@functools.cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    found.filters["plain"] = lambda value: json.dumps(value, ensure_ascii=False)
    found.filters["isolated"] = _isolated
    return found


def _isolated(text: str) -> markupsafe.Markup:
    """Keep words that are written from right to left from turning round what stands beside them, such as numbers."""
    visible = str(markupsafe.escape(text)).translate(_DIRECTIONS)
    return markupsafe.Markup(_RIGHT_TO_LEFT.sub(r"<bdi>\g<0></bdi>", visible))  # noqa: S704 escaped


def _made(name: str, part: Callable[[Facts, Shown], dict[str, Any]], facts: Facts, shown: Shown) -> dict[str, Any]:
    """A part of the page; nothing that goes wrong with one takes the others away."""
    try:
        return {"problem": "", **part(facts, shown)}
    except Exception as error:  # whatever it is: a page with a hole is better than none
        _log.warning("the report is without its part %s: %s: %s", name, type(error).__name__, error, exc_info=True)
        return {"problem": f"{type(error).__name__}: {error}", **sections.EMPTY[name]}
