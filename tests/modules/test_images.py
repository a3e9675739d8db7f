import hashlib

import numpy as np
import pytest

from modules import images
from tests.conftest import encode, random_picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_good_picture_is_described(kind: str) -> None:
    picture = random_picture(1, 12, 10, kind)
    info = images.inspect(picture)
    assert (info.format, info.height, info.width, info.channels) == (kind, 12, 10, 3)
    assert info.bytes == len(picture)
    assert info.content_hash == hashlib.sha256(picture).hexdigest()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_grey_picture_has_one_channel(kind: str) -> None:
    assert images.inspect(encode(np.zeros((8, 8), np.uint8), kind)).channels == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"no picture at all", "not a picture"),
        (random_picture(1, kind="JPEG")[:-40], "truncated or damaged"),
        (random_picture(1)[:-40], "truncated or damaged"),
        (random_picture(1, kind="GIF"), "format GIF is not supported; expected JPEG or PNG"),
    ],
    ids=["empty", "text", "truncated JPEG", "truncated PNG", "GIF"],
)
def test_a_bad_file_is_refused_with_the_reason(content: bytes, said: str) -> None:
    with pytest.raises(images.BadImageError, match=said):
        images.inspect(content)
