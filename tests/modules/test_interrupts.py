import logging
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from modules import interrupts

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put back what this process does at signals."""
    before = {number: signal.getsignal(number) for number in ALL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_outside_interrupts_as_a_person_does(number: signal.Signals) -> None:
    interrupts.handle()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_what_nohup_has_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.handle()
    os.kill(os.getpid(), signal.SIGHUP)
    with interrupts.noted() as came:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not came()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("number", ALL)
def test_a_first_signal_is_noted_and_a_second_one_interrupts(number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.handle()
    acted = []
    with pytest.raises(KeyboardInterrupt), interrupts.noted() as came:  # noqa: PT012 the block is what is tested
        assert not came()
        os.kill(os.getpid(), number)
        acted.append(came())
        os.kill(os.getpid(), number)
        acted.append("the second did not interrupt")
    assert acted == [True]
    assert signal.getsignal(signal.SIGTERM) is interrupts.interrupt


def test_a_signal_that_nobody_acted_on_interrupts_at_the_end() -> None:
    interrupts.handle()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.noted():  # noqa: PT012 the block is what is tested
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("the rest of the work")
    assert done == ["the rest of the work"]


class Heard(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.something = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.something.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler, logger = Heard(), logging.getLogger("finetune.modules.interrupts")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def test_that_a_signal_was_heard_is_said_while_the_main_thread_is_in_a_long_call(heard: Heard) -> None:
    interrupts.handle()
    came_back, go_on = os.pipe()
    said_meanwhile: list[bool] = []

    def send() -> None:
        # A signal to another thread does not cut the main thread's call short, as none does TensorFlow's.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        said_meanwhile.append(heard.something.wait(20))
        os.write(go_on, b"x")

    with pytest.raises(KeyboardInterrupt), interrupts.noted("ends with the batch at hand"):  # noqa: PT012 the block is what is tested
        sender = threading.Thread(target=send)
        sender.start()
        os.read(came_back, 1)
        sender.join()
    assert said_meanwhile == [True]
    assert heard.said == ["SIGTERM: ends with the batch at hand"]


def test_a_signal_is_said_once_and_others_are_none_of_it(heard: Heard) -> None:
    interrupts.handle()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    with pytest.raises(KeyboardInterrupt), interrupts.noted("ends"):  # noqa: PT012 the block is what is tested
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    assert heard.said == ["SIGHUP: ends"]


def test_what_listened_for_signals_before_does_so_again() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = signal.set_wakeup_fd(theirs)
    try:
        with interrupts.noted("ends"):
            pass
        assert signal.set_wakeup_fd(before) == theirs
    finally:
        signal.set_wakeup_fd(before)
        os.close(ours)
        os.close(theirs)
