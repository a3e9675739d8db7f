"""What every command has around it: the environment, the standard streams, and a line for files that can't be used."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from cli import options

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FULL = (errno.ENOSPC, errno.EDQUOT)
_WAYS_OUT = {
    **dict.fromkeys(_FULL, "make room there, or name a folder elsewhere"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name one that user {uid} may use"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "name another, or move away the file that is in the way"),
    errno.EISDIR: "name a file",
    errno.ENOENT: "name one that is there",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "name one whose links lead somewhere",
}


class Entry(click.Group):
    """The command with all others below it."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Set up the process, and run the command."""
        # Whatever started this, and whatever others call their packages.
        sys.path.insert(0, _ROOT)
        from configs import environment
        from pipeline import streams

        environment.put_own_packages_first()
        streams.prepare()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a file or folder that can't be used ends it with exit code 2."""
        from pipeline import streams

        try:
            return super().invoke(ctx)
        except streams.OutputError as error:
            if error.errno == errno.EPIPE:
                # The reader has what it wanted.
                raise
            raise options.unprinted(error) from None
        except OSError as error:
            if (line := explained(error)) is None:
                raise
            raise options.InputError(line) from None


def explained(error: OSError) -> str | None:
    """Return a line on a file or folder that can't be used, with what to do.

    Args:
      error: of the system.

    Returns:
      None for an error that is none of files, and for one whose way out nobody knows.
    """
    if "temporary directory" in str(error.strerror):
        # Python looked for one.
        return f"{error.strerror}; set TMPDIR to a folder with room"
    way_out = _WAYS_OUT.get(error.errno or 0)
    if way_out is None or (error.filename is None and error.errno not in _FULL):
        return None
    what = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{what}{error.strerror}; {way_out.format(uid=os.getuid())}"
