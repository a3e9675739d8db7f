import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import PIL.Image
import pytest
from xdist.scheduler import LoadScopeScheduling

from configs import environment

# Children of the tests run the code that is tested, wherever else the project is installed.
environment.prepare()
environment.put_own_packages_first()

# Nothing that is tested here is timed, and the machine may be busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Encode uint8 pixels, [height, width] or [height, width, channels]."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def random_picture(seed: int, height: int = 12, width: int = 10, kind: str = "PNG") -> bytes:
    """A picture of random colours, another one for each seed."""
    return encode(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), kind)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of pictures from {"class/name.png": bytes}."""

    def write(files: dict[str, bytes], folder: str = "pictures") -> Path:
        for name, content in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / folder

    return write


@pytest.fixture(autouse=True)
def _levels_of_logging() -> Iterator[None]:
    """What a command under test makes of the levels of logging is not what the next test hears."""
    loggers = [logging.getLogger(name) for name in (None, "finetune", "absl")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


_RUNS = {"tests/e2e/test_run.py", "tests/e2e/test_report.py", "tests/e2e/test_serving.py", "tests/e2e/test_rough_places.py"}
"""They share a run."""


def _file(nodeid: str) -> str:
    return nodeid.split("::", maxsplit=1)[0]


class _ByFixtures(LoadScopeScheduling):
    """Keeps tests that share what is dear to make in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        return "runs" if file in _RUNS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFixtures(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest."""
    items.sort(key=lambda item: (item.path.parent.name != "e2e", _file(item.nodeid) not in _RUNS))
