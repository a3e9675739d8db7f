"""What a DoFn says at the end of a bundle: work may go on from one element to the next, since a bundle counts as a whole."""

from __future__ import annotations

from typing import Any

from apache_beam import pvalue
from apache_beam.transforms import window


def at_end(output: Any) -> Any:
    """Return an output, tagged or not, as `finish_bundle` has to yield it in a pipeline without windows.

    Args:
      output: as `process` yields it.
    """
    if isinstance(output, pvalue.TaggedOutput):
        return pvalue.TaggedOutput(output.tag, at_end(output.value))
    return window.GlobalWindows.windowed_value(output)
