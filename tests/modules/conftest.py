from pathlib import Path

import keras
import pytest

from modules import weights


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine that has to fetch ImageNet's weights, and gets them at once: an item for each time."""
    kept, times = str(weights.locate("imagenet")), []

    def fetch() -> keras.Model:
        times.append(1)
        return keras.applications.VGG16(weights=kept, include_top=False)

    monkeypatch.setenv("FINETUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_from_keras", fetch)
    return times
