"""`finetune config`: the configuration, and what it may hold."""

from __future__ import annotations

import json
import sys

import click

from cli import options


@click.group()
def config() -> None:
    """Show the configuration and what it may hold."""


@config.command()
@options.config_option
@options.set_option
def show(config_path: str | None, overrides: tuple[str, ...]) -> None:
    """Print the effective configuration as YAML.

    \b
    Example:
      finetune config show --config configs/digits.yaml --set training.batch_size=16
    """
    import yaml

    effective = options.load(config_path, overrides).model_dump(mode="json")
    # YAML has escapes of its own for what the terminal has no characters for.
    plain = sys.stdout.encoding.lower().startswith("utf")
    click.echo(yaml.safe_dump(effective, sort_keys=False, allow_unicode=plain), nl=False)
    options.check_printed()


@config.command(name="schema")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "markdown"]),
    default="json",
    show_default=True,
    help="A schema, or the guide to it.",
)
def print_schema(form: str) -> None:
    """Print every key of the configuration with its unit, default and bounds.

    \b
    Examples:
      finetune config schema > finetune.schema.json
      finetune config schema --format markdown > docs/configuration.md
    """
    from configs import guide, schema

    click.echo(guide.markdown() if form == "markdown" else json.dumps(schema.Config.model_json_schema(), indent=2))
    options.check_printed()
