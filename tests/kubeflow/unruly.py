"""Stands in for `kubeflow.node_process` where the tests want a process that misbehaves: the configuration says how."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from kubeflow.node_process import Answer, Request

line = socket.socket(fileno=int(sys.argv[1]))
requests = line.makefile()


def answer(code: int, state: str) -> None:
    line.sendall(Answer(code=code, state=state).model_dump_json().encode() + b"\n")


signals: list[int] = []
for number, text in enumerate(requests):
    request = Request.model_validate_json(text)
    what, _, argument = request.config.partition(" ")
    if what == "answer":
        code, _, state = argument.partition(" ")
        answer(int(code), state)
        if int(code):
            os._exit(int(code))
    if what == "gpus":
        answer(0, f"sees {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}")
    if what == "who":
        answer(0, f"{os.getpid()} {number}")
    if what == "half":
        line.sendall(b'{"code": 0, "sta')
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
        signal.signal(signal.SIGTERM, lambda signum, frame: signals.append(signum))
        Path(argument).write_text("0")
        while not signals:
            time.sleep(0.05)
        time.sleep(1)
        Path(argument).write_text(str(len(signals)))
        os._exit(0)
    if what == "orphan":  # which holds this process's end of the line
        os.set_inheritable(line.fileno(), True)
        orphan = subprocess.Popen(["sleep", "60"], close_fds=False)
        Path(argument).write_text(str(orphan.pid))
        os._exit(0)
