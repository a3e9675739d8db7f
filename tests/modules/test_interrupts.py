import os
import signal
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
    with interrupts.noted() as came:
        assert not came()
        os.kill(os.getpid(), number)
        assert came()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is interrupts.interrupt
