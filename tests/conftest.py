import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share what is dear to make in one process, and begin with the longest."""
    groups = {"test_run": "runs", "test_serving": "runs", "test_kubeflow": "kubeflow"}
    for item in items:
        name = item.path.stem
        group = groups[name] if item.path.parent.name == "e2e" and name in groups else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path.parent.name != "e2e")
