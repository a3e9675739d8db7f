"""How answers look: a line of JSON a picture for scripts, a table for who sits at the terminal."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from rich import cells
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from components.image_example_gen import rejects
from modules import interrupts
from pipeline.log_file import Terminal

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
"""Those of Unicode that JSON leaves as they are, and `str.splitlines` does not."""

Show = Callable[[dict[str, Any]], None]


@contextlib.contextmanager
def shown(terminal: Terminal, as_json: bool, total: int | None) -> Iterator[Show]:
    """Yield what prints a record of `serving.pictures.answers`, and on a terminal show how many were printed elsewhere.

    Args:
      terminal: takes the answers and the progress.
      as_json: whether a terminal, too, gets lines of JSON.
      total: number of pictures; None if that shows only at the end.
    """
    at_terminal = terminal.out.isatty()
    line = json_line if as_json or not at_terminal else _Table().row
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(file=terminal.err)
    # Where the answers themselves scroll by, a bar would only be in their way.
    hidden = at_terminal or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("pictures", total=total)

        def show(record: dict[str, Any]) -> None:
            # In one piece and once, also if Ctrl-C comes right now.
            with interrupts.noted():
                terminal.out.write(line(record) + "\n")
                terminal.out.flush()
            bar.advance(task)

        yield show


def json_line(record: dict[str, Any]) -> str:
    """Return a record as JSON that is one line to every reader, whatever the file's name holds."""
    return one_line(json.dumps(record | {"file": rejects.printable(record["file"])}, ensure_ascii=False))


def one_line(text: str) -> str:
    """Return JSON without the ends of lines that it leaves as they are."""
    return _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escaped(text: str) -> str:
    """Return a text that can neither break a line nor steer a terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in rejects.printable(text))


class _Table:
    """Rows with the most probable labels first and the file at the end; columns grow with the labels that come."""

    def __init__(self) -> None:
        self._width = 0

    def row(self, record: dict[str, Any]) -> str:
        file = escaped(record["file"])
        if "error" in record:
            return f"error  {file}: {escaped(record['error'])}"
        labels = [escaped(entry["label"]) for entry in record["top"]]
        self._width = max(self._width, *map(cells.cell_len, labels))
        padded = [cells.set_cell_size(label, self._width) for label in labels]
        scores = [f"{label} {entry['score']:.3f}" for label, entry in zip(padded, record["top"], strict=True)]
        return "  ".join([*scores, file])
