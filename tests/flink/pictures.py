"""3,000 small pictures, with all the trouble that collections hold: what both runs make of them has to be the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image

from tests import corpus

COUNT = 3000
_LABELS = ("amber", "blue", "crimson", "größe")
_COLOURS = ((200, 150, 40), (40, 80, 200), (180, 30, 60), (90, 160, 90))
_SERIES = 600
"""Pictures whose names tell which series of ten they belong to."""
_COPIES, _CONFLICTS, _NEAR_COPIES, _CUT, _OTHERS = 120, 20, 150, 60, 15


def write(folder: Path) -> None:
    """Write them, a folder a label.

    Args:
      folder: is made.
    """
    for label in _LABELS:
        (folder / label).mkdir(parents=True)
    odd = [*(made(0) for made, *_ in corpus.VALID.values()), *(content for content, _ in corpus.BAD.values())]
    for number, content in enumerate(odd):
        (folder / _LABELS[number % len(_LABELS)] / f"odd-{number:04}").write_bytes(content)
    troubled = _COPIES + _CONFLICTS + _NEAR_COPIES + _CUT + _OTHERS
    plain = [_write(folder, number) for number in range(COUNT - len(odd) - troubled)]
    chosen = iter(np.random.default_rng(1).permutation(len(plain)))
    for number in range(_COPIES):
        path = plain[next(chosen)]
        path.with_name(f"copy-{number:04}").write_bytes(path.read_bytes())
    for number in range(_CONFLICTS):
        path = plain[next(chosen)]
        other = _LABELS[(_LABELS.index(path.parent.name) + 1) % len(_LABELS)]
        (folder / other / f"conflict-{number:04}").write_bytes(path.read_bytes())
    for number in range(_NEAR_COPIES):
        path = plain[next(chosen)]
        with PIL.Image.open(path) as picture:
            picture.resize((40, 40)).save(path.with_name(f"near-{number:04}.jpg"), quality=80)
    for number in range(_CUT):
        path = plain[next(chosen)]
        path.with_name(f"cut-{number:04}").write_bytes(path.read_bytes()[: number * 12])
    for number in range(_OTHERS):
        (folder / _LABELS[0] / f"notes-{number:04}.txt").write_text("no picture")


def _write(folder: Path, number: int) -> Path:
    """Write a picture of its label's colour, one in twenty of another's; return where."""
    random = np.random.default_rng([2, number])
    label = number % len(_LABELS)
    colour = label if random.random() > 0.05 else (label + 1) % len(_LABELS)
    coarse = np.clip(random.normal(_COLOURS[colour], 50, (6, 6, 3)), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    kind = ("PNG", "JPEG", "WEBP")[number % 3]
    PIL.Image.fromarray(coarse).resize((32, 32), PIL.Image.Resampling.BICUBIC).save(content, kind)
    series = f"series{number // 40:03}-" if number < _SERIES * 4 and label == 0 else ""
    path = folder / _LABELS[label] / f"{series}{number:05}.{kind.lower()}"
    path.write_bytes(content.getvalue())
    return path
