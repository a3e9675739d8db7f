"""Pictures of the examples, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Collection, Iterator

import numpy as np
import PIL.Image
import tensorflow as tf

from modules import contents, features

SIDE = 96
"""Of a thumbnail, in pixels, the longer one."""
_QUALITY = 80
_MOST_SHARDS = 50
"""Files of records that are opened for one split; beyond, what they hold is not shown."""


def find(examples: str, split: str, paths: Collection[str]) -> dict[str, bytes]:
    """Return pictures by path, encoded as they were ingested; those that are not in the split are left out.

    Args:
      examples: URI of the artifact.
      split: its name.
      paths: below the source.
    """
    wanted, found = {*paths}, dict[str, bytes]()
    opened = 0
    for file in _files(examples, split):
        if not wanted:
            break
        names = contents.origins([file]).paths
        places = {place: name for place, name in enumerate(names) if name in wanted}
        if not places or opened >= _MOST_SHARDS:
            continue
        opened += 1
        for place, picture in enumerate(_pictures(file, 1 + max(places))):
            if place in places:
                found[places[place]] = picture
        wanted -= found.keys()
    return found


def of_each(examples: str, split: str, labels: Collection[str], most: int) -> dict[str, list[tuple[str, bytes]]]:
    """Return the first pictures of each label, with their paths.

    Args:
      examples: URI of the artifact.
      split: its name.
      labels: of which there are to be some.
      most: pictures of each.
    """
    found: dict[str, list[tuple[str, bytes]]] = {label: [] for label in labels}
    missing = dict.fromkeys(found, most)
    for file in _files(examples, split)[:_MOST_SHARDS]:
        places = {}
        for place, (label, path) in enumerate(contents.labelled_paths([file])):
            if missing.get(label):
                missing[label] -= 1
                places[place] = label, path
        if places:
            for place, picture in enumerate(_pictures(file, 1 + max(places))):
                if place in places:
                    label, path = places[place]
                    found[label].append((path, picture))
        if not any(missing.values()):
            break
    return found


def thumbnail(encoded: bytes, heat: np.ndarray | None = None) -> str:
    """Return a picture as the `src` of an HTML image, a JPEG of at most `SIDE` pixels.

    Args:
      encoded: as it was ingested.
      heat: what a model looked at, float `[height, width]`, 0 to 1; it is laid over the picture.
    """
    pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    return of_pixels(pixels, heat)


def of_pixels(pixels: np.ndarray, heat: np.ndarray | None = None) -> str:
    """Return pixels as the `src` of an HTML image.

    Args:
      pixels: uint8 `[height, width, 3]`.
      heat: as for `thumbnail`.
    """
    picture = PIL.Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    if min(picture.size) * 2 < SIDE and max(picture.size) < SIDE:
        # Digits of 8 pixels are to be seen as well, each pixel as it is.
        factor = SIDE // max(picture.size)
        picture = picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST)
    if heat is not None:
        picture = _with_heat(picture, heat)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _with_heat(picture: PIL.Image.Image, heat: np.ndarray) -> PIL.Image.Image:
    """A picture, grey where nothing was looked at, red where most was."""
    mask = PIL.Image.fromarray((255 * np.clip(heat, 0.0, 1.0)).astype(np.uint8))
    share = np.asarray(mask.resize(picture.size, PIL.Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32)
    red = np.array([230.0, 30.0, 30.0])
    return PIL.Image.fromarray((grey * (1 - 0.65 * share) + red * 0.65 * share).astype(np.uint8))


def _files(examples: str, split: str) -> list[str]:
    return sorted(tf.io.gfile.glob(os.path.join(examples, f"Split-{split}", "*.gz")))


def _pictures(file: str, most: int) -> Iterator[bytes]:
    """The first pictures of a file of records."""
    for record in tf.data.TFRecordDataset(file, "GZIP").take(most).as_numpy_iterator():
        yield tf.train.Example.FromString(record).features.feature[features.IMAGE].bytes_list.value[0]
