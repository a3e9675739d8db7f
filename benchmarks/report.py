"""How long the page of a run takes, how large it is, and how much memory: with many test pictures and classes.

.venv/bin/python -m benchmarks.report --pictures 20000 --classes 100
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table


@click.command()
@click.option("--pictures", default=20_000, show_default=True, help="Of the test split.")
@click.option("--classes", default=100, show_default=True)
def main(pictures: int, classes: int) -> None:
    """Print seconds, megabytes and the most memory; what is shown are 400 pictures of noise, the rest have rows alone."""
    from components.run_report import page
    from tests.components import report_facts

    with tempfile.TemporaryDirectory() as folder:
        facts = report_facts.facts(Path(folder), [f"class {number}" for number in range(classes)], tests=pictures)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        text = page.render(facts)
        seconds = time.perf_counter() - started
    table = Table("test pictures", "classes", "seconds", "megabytes", "most memory, MB", "of these for the page")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = (
        f"{pictures:,}",
        classes,
        f"{seconds:.1f}",
        f"{len(text.encode()) / 1e6:.2f}",
        most // 1000,
        (most - before) // 1000,
    )
    table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    main()
