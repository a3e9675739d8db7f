"""What can be said of learning-rate rules before there is a model: its variables' paths are always the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Of each of VGG16's blocks."""
PATHS = (
    *(
        f"block{block}_conv{number}/{variable}"
        for block, count in enumerate(_CONVOLUTIONS, 1)
        for number in range(1, count + 1)
        for variable in ("kernel", "bias")
    ),
    *(f"head/{name}" for name in ("dense/kernel", "dense/bias", "normalization/gamma", "normalization/beta")),
    *(f"head/{name}" for name in ("probabilities/kernel", "probabilities/bias")),
)
"""Of every variable that can learn, from the picture up."""
_EXAMPLES = f"{PATHS[0]}, {PATHS[1]}, …, {PATHS[-1]}"


def check(rules: Sequence[tuple[str, float | None]], layer_decay: float | None) -> None:
    """Refuse rules of a phase that can't be kept to.

    Args:
      rules: ordered (regular expression, learning rate); the first that matches a whole path wins, None freezes.
      layer_decay: whether and how VGG16's blocks that no rule matches get a rate.

    Raises:
      ValueError: a pattern is none, or matches nothing; a rate is never used; nothing learns; a variable has no rule; there
        is no block left for `layer_decay`.
    """
    left = list(PATHS)
    learns = False
    for pattern, rate in rules:
        try:
            matched = {path for path in PATHS if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ValueError(f"learning_rates: {pattern!r} is not a regular expression: {error}") from None
        won = matched.intersection(left)
        if not matched:
            raise ValueError(f"learning_rates: {pattern!r} matches no variable, whole path and all; there are {_EXAMPLES}")
        if rate is not None and not won:
            raise ValueError(f"learning_rates: the rules before {pattern!r} match all it matches, so {rate:g} is never used")
        learns = learns or rate is not None
        left = [path for path in left if path not in won]
    if not learns:
        raise ValueError("learning_rates: every rule freezes what it matches: nothing would be trained")
    blocks = [path for path in left if path.startswith("block")]
    if layer_decay is not None and not blocks:
        raise ValueError(f"layer_decay = {layer_decay:g}: the rules match every block, so there is none left for it")
    unmatched = left if layer_decay is None else [path for path in left if path not in blocks]
    if unmatched:
        raise ValueError(f"learning_rates: no pattern matches {unmatched[0]}; end with ['.*', null] to freeze the rest")
