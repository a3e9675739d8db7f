"""What the front page and the guides say is there: pages, keys, options, files, messages."""

import ast
import re

import click
import pytest

import cli
from configs import reading, schema
from tests import guides
from tests.guides import PAGES, ROOT

FILES = {"report.html"}
"""That look like keys."""
TOOLS = {"make", "kubectl", "docker", "mvn", "curl", "export", "tensorflow_model_server", "python"}
"""First words of commands that are not ours."""


def test_the_front_page_is_short_and_every_guide_is_linked_from_it() -> None:
    front = guides.text("README.md")
    assert len(front.splitlines()) <= 120
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert there == set(PAGES) - {"README.md"}
    assert there <= set(re.findall(r"\]\((.*?)\)", front))


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", guides.prose(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        to = (ROOT / page).parent / path if path else ROOT / page
        assert to.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in guides.anchors(str(to.resolve().relative_to(ROOT))), f"{page}: {target}"


def test_every_key_that_is_named_is_one_of_the_configuration() -> None:
    known = set(guides.keys(schema.Config))
    sections = "|".join(name for name in schema.Config.model_fields if name != "name")
    found = [
        (page, key) for page in PAGES for key in re.findall(rf"(?:`|--set )((?:{sections})(?:\.\w+)+)", guides.text(page))
    ]
    assert len(found) > 100
    for page, key in found:
        if key in FILES:
            continue
        # Names of nodes and numbers of phases are not the schema's.
        plain = ".".join(part for part in key.split(".") if not re.fullmatch(r"[A-Z]\w*|\d+", part))
        assert plain in known, f"{page}: {key}"


@pytest.mark.parametrize("page", PAGES)
def test_every_piece_of_a_configuration_can_be_read(page: str) -> None:
    for block in guides.blocks(page, "yaml"):
        reading.parse(block, page, {})


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command of a line of `finetune`, and what it is given."""
    found: click.Command = cli.main
    while isinstance(found, click.Group) and words:
        assert words[0] in found.commands, words
        found, words = found.commands[words[0]], words[1:]
    return found, words


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_is_there(page: str) -> None:
    inline = re.findall(r"`(finetune [^`]*)`", guides.prose(page))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in [*guides.commands(page), *inline]:
        words = line.split()
        if words[0] == "finetune":
            command, given = command_of(words[1:])
            known = {name for parameter in command.params for name in parameter.opts}
            used = {word.partition("=")[0] for word in given if word.startswith("--")}
            assert used <= known, f"{page}: {line}"
        elif words[0] == "make":
            assert words[1] in targets, f"{page}: {line}"
        else:
            assert words[0] in TOOLS or "=" in words[0], f"{page}: {line}"
            for module in re.findall(r"python -m ((?:tests|benchmarks|scripts)\.[\w.]+)", line):
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    rooms = "benchmarks|cli|components|configs|docs|kubeflow|modules|pipeline|scripts|serving|tests"
    for path in re.findall(rf"`((?:{rooms})/[\w./-]+)`", guides.prose(page)):
        assert (ROOT / path).exists() or path.startswith("serving/VERSION"), f"{page}: {path}"


def literals() -> set[str]:
    """The texts in the code that are no docstrings, with a line break for each value that is put in."""
    found = set()
    for room in ("cli", "components", "kubeflow", "modules", "pipeline", "serving", "configs"):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values]
                    found.add("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                    found.add(node.value)
    return found


def test_every_message_that_the_guide_for_the_night_quotes_is_said_somewhere() -> None:
    said = literals()
    section = guides.text("docs/operating.md").split("## It is red")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if re.match(r"\| .*`", line)]
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 30
    for message in quoted:
        parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
        assert any(re.search(".*".join(parts), one, re.DOTALL) for one in said), message


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_nothing_is_left_to_be_filled_in(page: str) -> None:
    assert not re.search(r"@@|\(to come\)|TODO|XXX", guides.text(page))


def test_pages_that_are_served_from_a_checkout_load_no_picture_from_elsewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", guides.text(page)):
            picture = (ROOT / page).parent / target
            assert picture.suffix == ".png", target
            assert picture.stat().st_size < 500_000
