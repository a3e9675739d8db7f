"""RunReport's executor: has the page made by who knows ML Metadata, and writes it."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils

SERVING_DIR_KEY, PICTURES_KEY, RUN_ID_KEY = "serving_dir", "pictures", "run_id"
PUSHED_MODEL_KEY, REPORT_KEY = "pushed_model", "report"
FILE = "report.html"

Maker = Callable[[str, str, bool], str]
"""Returns the page of a run from its id, the folder of the versions, and whether it may show pictures."""

_maker: contextvars.ContextVar[Maker] = contextvars.ContextVar("maker")
_log = logging.getLogger("finetune.components.run_report")


@contextlib.contextmanager
def made_by(maker: Maker) -> Iterator[None]:
    """Say who makes pages: what they tell is in ML Metadata, which executors do not see.

    Args:
      maker: of pages.
    """
    token = _maker.set(maker)
    try:
        yield
    finally:
        _maker.reset(token)


class Executor(base_executor.BaseExecutor):
    """Writes the page of a run."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write the page; a run whose page can't be made is as good as any other.

        Args:
          input_dict: `pushed_model`.
          output_dict: `report`.
          exec_properties: `serving_dir`, `pictures` and `run_id`.
        """
        path = os.path.join(artifact_utils.get_single_uri(output_dict[REPORT_KEY]), FILE)
        try:
            page = _maker.get()(
                exec_properties[RUN_ID_KEY], exec_properties[SERVING_DIR_KEY], bool(exec_properties[PICTURES_KEY])
            )
        except Exception as error:  # whatever it is
            _log.warning("the report could not be made: %s: %s", type(error).__name__, error, exc_info=True)
            page = "<!doctype html><title>no report</title><p>The report could not be made; the log says why.</p>"
        io_utils.write_bytes_file(path, page.encode(errors="backslashreplace"))
