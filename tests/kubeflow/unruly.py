"""Stands in for `kubeflow.node_process` where the tests want a process that misbehaves: the configuration says how."""

import os
import signal
import subprocess
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
if what == "gpus":
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    Path(sys.argv[2]).write_text(Answer(code=0, state=f"sees {seen}").model_dump_json())
    os._exit(0)
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
if what == "count":
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: signals.append(signum))
    Path(argument).write_text("0")
    while not signals:
        time.sleep(0.05)
    time.sleep(1)
    Path(argument).write_text(str(len(signals)))
if what == "orphan":
    with subprocess.Popen(["sleep", "60"]) as orphan:
        Path(argument).write_text(str(orphan.pid))
        os._exit(0)
