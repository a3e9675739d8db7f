"""Write scikit-learn's bundled handwritten digits as a folder of pictures, one subfolder per digit."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> None:
    """Write the 1,797 digits, 8 x 8 pixels in grey, as PNG files; an existing folder is left as it is.

    Args:
      folder: appears only when it is complete.
    """
    if folder.exists():
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        subfolder = unfinished / str(label)
        subfolder.mkdir(parents=True, exist_ok=True)
        # Grey values run from 0 to 16.
        grey = np.round(pixels * 255.0 / 16.0).astype(np.uint8)
        PIL.Image.fromarray(grey).save(subfolder / f"{index:04d}.png")
    unfinished.rename(folder)


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
