"""The figures of the page: matplotlib's SVG, in the colours of the page, light or dark."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.lines
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from components.cross_validator.scores import Bin
from components.run_report.curves import Curve

_INK, _FAINT = "#010203", "#040506"
"""Stand for the colours of the page, which are not known here."""
_BLUE, _ORANGE, _GREEN, _RED = "#3b82c4", "#d97b29", "#3f9e6e", "#c8453b"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a label is no formula
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "grid.color": _FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
}
_MOST_NAMED = 40
"""Classes up to which a confusion matrix names them all."""


def _drawn(draw: Callable[..., Figure]) -> Callable[..., str]:
    """Have what draws a figure return it as an element of the page, with ids that no other figure has."""

    @functools.wraps(draw)
    def drawn(*arguments: Any) -> str:
        with mpl.rc_context(_STYLE | {"svg.hashsalt": draw.__name__}):
            return _svg(draw(*arguments), draw.__name__)

    return drawn


@_drawn
def confusion(counts: np.ndarray, labels: Sequence[str]) -> Figure:
    """Return a confusion matrix, rows by their share.

    Args:
      counts: int64 `[classes, classes]`, the truth by row.
      labels: of the classes.
    """
    classes = len(labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.32 * classes, 2.2, 7.0))
    figure = Figure((side + 1.6, side + 1.0))
    axes = figure.subplots()
    axes.grid(visible=False)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="equal")
    if classes <= _MOST_NAMED:
        names = [_short(label) for label in labels]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if classes <= 20:
        for row, column in np.argwhere(counts):
            dark = shares[row, column] > 0.5
            text = axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8)
            text.set_color("#ffffff" if dark else "#1b1f24")
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    return figure


@_drawn
def reliability(bins: Sequence[Bin]) -> Figure:
    """Return a reliability diagram: accuracy by score.

    Args:
      bins: with pictures, lowest first.
    """
    figure = Figure((4.2, 3.4))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "--", color=_FAINT, linewidth=1)
    if bins:
        widths = [one.high - one.low for one in bins]
        axes.bar([one.low for one in bins], [one.accuracy for one in bins], widths, align="edge", color=_BLUE, alpha=0.55)
        sizes = [12 + 140 * one.pictures / sum(other.pictures for other in bins) for one in bins]
        axes.scatter([one.score for one in bins], [one.accuracy for one in bins], sizes, color=_BLUE, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score of the answer", ylabel="accuracy")
    return figure


@_drawn
def coverage(shares: np.ndarray, accuracies: np.ndarray) -> Figure:
    """Return accuracy over the share of the pictures that are answered.

    Args:
      shares: 0 to 1, ascending.
      accuracies: likewise.
    """
    figure = Figure((4.2, 3.4))
    axes = figure.subplots()
    thinned = np.unique(np.linspace(0, len(shares) - 1, 400).astype(int)) if len(shares) else np.empty(0, int)
    axes.plot(shares[thinned], accuracies[thinned], color=_GREEN)
    low = float(accuracies.min()) if len(accuracies) else 0.0
    axes.set(xlim=(0, 1), ylim=(max(0.0, low - 0.02), 1.002), xlabel="share of pictures answered", ylabel="accuracy")
    return figure


@_drawn
def training(curves: Sequence[Curve], kept: int | None) -> Figure:
    """Return loss and accuracy of all phases on one axis.

    Args:
      curves: of the phases, in order.
      kept: the epoch whose weights were kept, counted over all phases from 0; None if it is not known.
    """
    figure = Figure((8.4, 3.2))
    both = figure.subplots(1, 2)
    for axes, name, title in zip(both, ("loss", "accuracy"), ("loss", "accuracy"), strict=True):
        start = 0
        for part in curves:
            epochs = np.arange(start + 1, start + 1 + len(part.train[name]))
            marker = "." if len(epochs) <= 100 else ""
            axes.plot(epochs, part.train[name], color=_ORANGE, marker=marker, markersize=4, linewidth=1)
            axes.plot(epochs, part.evaluation[name], color=_BLUE, marker=marker, markersize=4, linewidth=1.4)
            if start:
                axes.axvline(start + 0.5, color=_FAINT, linewidth=1)
            axes.annotate(
                part.phase, (start + 0.6, 1.0), xycoords=("data", "axes fraction"), fontsize=8, va="bottom", color=_INK
            )
            start += len(epochs)
        if kept is not None:
            axes.axvline(kept + 1, color=_GREEN, linewidth=1, linestyle=":")
        axes.set(xlabel="epoch", ylabel=title)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    handles = [mpl.lines.Line2D([], [], color=color) for color in (_ORANGE, _BLUE)]
    names = ["train", "eval"]
    if kept is not None:
        handles.append(mpl.lines.Line2D([], [], color=_GREEN, linestyle=":"))
        names.append("kept")
    figure.legend(handles, names, loc="upper right", ncols=3, fontsize=8)
    return figure


@_drawn
def history(
    accuracies: Sequence[float | None], intervals: Sequence[Any], published: Sequence[bool], pictures: Sequence[int | None]
) -> Figure:
    """Return accuracy and pictures of runs, the newest last.

    Args:
      accuracies: of the runs; None where there is none.
      intervals: their ends, or None.
      published: whether a model was, or its like was before.
      pictures: that were ingested; None where that is not known.
    """
    figure = Figure((8.4, 2.6))
    axes = figure.subplots()
    places = np.arange(1, len(accuracies) + 1)
    for good, color, marker in ((True, _GREEN, "o"), (False, _RED, "X")):
        chosen = [i for i, one in enumerate(accuracies) if one is not None and published[i] == good]
        values = [accuracies[i] or 0.0 for i in chosen]
        axes.scatter(places[chosen], values, color=color, marker=marker, s=28, zorder=3)
        for i in chosen:
            if intervals[i] is not None:
                axes.plot([places[i]] * 2, intervals[i], color=color, linewidth=1, alpha=0.6)
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    other.grid(visible=False)
    counts = [np.nan if one is None else one for one in pictures]
    other.step(places, counts, where="mid", color=_BLUE, linewidth=1, alpha=0.7)
    other.set_ylabel("pictures", color=_BLUE)
    other.set_ylim(bottom=0)
    axes.set(xlabel="run", ylabel="test accuracy", xlim=(0.5, len(accuracies) + 0.5))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_zorder(other.get_zorder() + 1)
    axes.patch.set_visible(False)
    return figure


@_drawn
def sizes(widths: Mapping[str, Any]) -> Figure:
    """Return how large pictures are: a histogram each of height and width.

    Args:
      widths: edges and counts, by the name of the side.
    """
    figure = Figure((4.2, 2.4))
    axes = figure.subplots()
    for (name, (edges, counts)), color in zip(widths.items(), (_BLUE, _ORANGE), strict=False):
        axes.stairs(counts, edges, color=color, label=name, fill=True, alpha=0.4)
    axes.set(xlabel="pixels", ylabel="pictures")
    axes.legend(fontsize=8)
    return figure


def _short(label: str) -> str:
    return label if len(label) <= 18 else f"{label[:17]}…"


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser has fonts for what matplotlib has none for.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head = re.match(
        r'<svg[^>]*?width="([^"]+)"[^>]*?viewBox="([^"]+)"[^>]*>|<svg[^>]*?viewBox="([^"]+)"[^>]*?width="([^"]+)"[^>]*>',
        text,
    )
    assert head is not None
    width, box = head[1] or head[4], head[2] or head[3]
    own = f'<svg role="img" aria-label="{name}" viewBox="{box}" style="width: {width}">'
    return own + re.sub(r"<[^>]*>", lambda tag: _of_page(tag[0], name), text[head.end() :])


def _of_page(tag: str, name: str) -> str:
    """A tag with ids of its own and the colours of the page; what it is around is text, and stays as it is."""
    tag = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r"(xlink:href=\"#|url\(#)", rf"\g<1>{name}-", tag)
    return tag.replace(_INK, "currentColor").replace(_FAINT, "var(--faint)")
