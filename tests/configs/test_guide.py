"""The guide to the configuration is what the schema says."""

import re

from configs import guide, schema
from tests import guides


def test_the_guide_is_made_from_the_schema() -> None:
    assert guides.text("docs/configuration.md") == guide.markdown() + "\n", (
        "run: finetune config schema --format markdown > docs/configuration.md"
    )


def test_every_key_says_what_it_does() -> None:
    described = schema.Config.model_json_schema()
    sections = {"Config": described, **described["$defs"]}
    silent = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, of in section["properties"].items()
        if not (of.get("description") or "$ref" in of)
    ]
    assert silent == []


def test_every_key_has_a_row_or_a_section_of_its_own() -> None:
    told = set()
    for part in guide.markdown().split("\n## ")[1:]:
        title, text = part.split("\n", 1)
        path = re.sub(r"\[\]|\.NAME", "", title).removeprefix("At the top")
        told |= {path, *(f"{path}.{key}".lstrip(".") for key in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))}
    # Sections that are like others are not told twice.
    twice = re.compile(r"kubeflow\.nodes\.")
    assert {key for key in guides.keys(schema.Config) if not twice.match(key)} <= told


def test_every_key_is_in_the_guide_under_its_section_with_its_default_and_bounds() -> None:
    sections = dict(part.split("\n", 1) for part in guide.markdown().split("\n## ")[1:])
    assert "| `name` | `images` |" in sections["At the top"]
    assert "| `num_spans` | `1` | integer 1 to 10000 |" in sections["data"]
    assert "| `learning_rates` | required |" in sections["training.phases[]"]
    assert "| `dropout` | `0.5` | number ≥ 0 and < 1 |" in sections["model"]
    assert "| `claim` | `finetune` |" in sections["kubeflow.volume"]
    assert "| `parallelism` | `null` | integer 1 to 32768, or `null` |" in sections["beam.flink"]
    assert "[kubeflow.default](#kubeflowdefault)" in sections["kubeflow.nodes.NAME"]
    for name in schema.Config.model_fields:
        assert name in sections or f"| `{name}` |" in sections["At the top"]
