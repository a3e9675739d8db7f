"""Take out of an environment what no node imports, and say what each part weighed: `slim.py ENVIRONMENT`, for the image.

Standard library only: it runs in the image's first stage. What is here was found by looking at the modules that a whole run,
the client and the node's entry point have loaded; `make image-test` runs the pipeline on what is left.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

UNUSED = [
    "tensorflow/include",  # headers, for who builds operators
    "pyarrow/include",
    "clang",  # libclang, which TensorFlow's wheel asks for and never loads
    "google/cloud/aiplatform*",  # Vertex AI's client, which TFX asks for; its compiler needs none of it
    "google/genai",
    "vertexai",
    "vertex_ray",
    "agentplatform",
    "tensorflow_estimator",
    "apache_beam/examples",
    "jedi",  # completion at a prompt of IPython, without which and ipywidgets TFMA has no names
    "pymongo",  # which Beam looks for each time it is imported
    "bson",
    "*/tests",
    "*/*/tests",
    "*/*/*/tests",
]
STRIPPED = ["tensorflow/libtensorflow_*.so.2"]


def main(environment: Path) -> None:
    """Slim an environment."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    for pattern in UNUSED:
        found = list(packages.glob(pattern))
        print(f"{sum(map(size, found)) / 1e6:7.0f} MB  {pattern}")
        for path in found:
            shutil.rmtree(path)
    for pattern in STRIPPED:
        found = list(packages.glob(pattern))
        before = sum(map(size, found))
        subprocess.run(["strip", "--strip-unneeded", *found], check=True)
        print(f"{(before - sum(map(size, found))) / 1e6:7.0f} MB  symbols of {pattern}")
    print(f"{size(packages) / 1e6:7.0f} MB  are left")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
