"""The front page and the guides: their commands, links and tables, as text."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs import schema

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("data", "configuration", "training", "gate", "reports", "serving", "kubeflow")),
    *(f"docs/{name}.md" for name in ("operating", "many-machines", "flink", "architecture", "contributing")),
)
"""In the order in which a new user reads them."""


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Return the lines of the page's commands, without comments and the environment's folder."""
    found = []
    for block in blocks(page, "sh"):
        together = re.sub(r"\\\n\s*", "", re.sub(r"(^|\s+)# .*$", "", block, flags=re.MULTILINE))
        # What is in quotes may run over lines.
        for line in re.findall(r"(?:'[^']*'|[^'\n])+", together):
            bare = line.strip().removeprefix(".venv/bin/")
            if bare:
                found.append(bare)
    return found


def anchors(page: str) -> set[str]:
    """Return the names by which the headings of a page are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower().replace(" ", "-") for heading in headings)
    return {"".join(letter for letter in heading if letter.isalnum() or letter in "-_") for heading in plain}


def keys(section: Any, path: str = "") -> Iterator[str]:
    """The path of every key of a configuration, also of sections that are null or in lists."""
    for name, field in section.model_fields.items():
        yield path + name
        for kind in re.findall(r"\b[A-Z][A-Za-z]+\b", str(field.annotation)):
            inner = getattr(schema, kind, None)
            if isinstance(inner, type) and issubclass(inner, schema._Section):
                yield from keys(inner, f"{path}{name}.")
