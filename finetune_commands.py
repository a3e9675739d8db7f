"""What the installed commands start: under a name that no other project has, it finds this project's packages first."""

from __future__ import annotations

import locale
import os
import sys


def finetune() -> None:
    """Run `finetune`."""
    _prepare()
    from cli import main

    main()


def finetune_node() -> None:
    """Run `finetune-node`, a task of the compiled pipeline."""
    _prepare()
    from kubeflow.node_entrypoint import main

    main()


def _prepare() -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    if sys.getfilesystemencoding() == "utf-8":
        return
    # Labels are names of folders, and must not depend on who reads them where; only the terminal has its own encoding.
    os.environ.setdefault("PYTHONIOENCODING", locale.getencoding())
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 this very command
