"""Files of an artifact that workers write: aside, each attempt one of its own, until they are whole and get their names.

A worker that was given up may wake at any time, and go on beside the one that has taken its place.
"""

from __future__ import annotations

import os
import uuid

from tfx.dsl.io import fileio


def new(folder: str) -> str:
    """Return where a file can be written that nobody else writes.

    Args:
      folder: on the file system of the artifact.
    """
    return os.path.join(folder, uuid.uuid4().hex)


def publish(aside: str, final: str) -> None:
    """Give a file that is whole its name; whoever comes second changes nothing, as all attempts write the same.

    Args:
      aside: as `new` named it; it may be published already.
      final: its name in the artifact; the folder is made.
    """
    if fileio.exists(final):
        return
    fileio.makedirs(os.path.dirname(final))
    fileio.rename(aside, final, overwrite=True)
