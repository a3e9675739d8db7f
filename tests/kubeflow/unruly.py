"""Stands in for `kubeflow.node_process` where the tests want a process that misbehaves: the configuration says how."""

import os
import signal
import sys
import time
from pathlib import Path

from kubeflow.node_process import Answer, Request

request = Request.model_validate_json(Path(sys.argv[1]).read_text())
what, _, argument = request.config.partition(" ")
if what == "answer":
    code, _, state = argument.partition(" ")
    Path(sys.argv[2]).write_text(Answer(code=int(code), state=state).model_dump_json())
    os._exit(int(code))
if what == "half":
    Path(sys.argv[2]).write_text('{"code": 0, "sta')
    os._exit(0)
if what == "signal":
    os.kill(os.getpid(), getattr(signal, argument))
if what == "exit":
    os._exit(int(argument))
if what == "sleep":
    Path(argument).write_text(str(os.getpid()))
    if request.node == "Stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
