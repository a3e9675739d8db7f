"""The folder that TensorFlow Serving watches: numbered versions of one model, and which of them is live.

A version appears whole or not at all: it is written in `.staging` beside its place, flushed, and renamed. On an object
store, where nothing can be renamed, `saved_model.pb` comes last, without which a version can't be loaded. `models.config`
says which version is live; TensorFlow Serving reads it again every so often and loads what it names, so that rolling back
needs no restart.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving import files

CONFIG_FILE = "models.config"
_SAVED_MODEL = "saved_model.pb"
_STAGING, _COUNTER, _WITHDRAWN = ".staging", ".last_version", ".withdrawn"


class VersionError(ValueError):
    """A version that is not there, or can't be what was asked for."""


class Versions:
    """The versions of one model.

    Args:
      folder: on a local disk or an object store; need not exist yet.
    """

    def __init__(self, folder: str):
        self.folder = os.path.abspath(folder) if files.is_local(folder) else folder
        self._config = os.path.join(folder, CONFIG_FILE)

    def numbers(self) -> list[int]:
        """Return the versions that a server could load, in order."""
        return sorted(
            number for number in self._numbered() if tf.io.gfile.exists(os.path.join(self.path(number), _SAVED_MODEL))
        )

    def path(self, number: int) -> str:
        """Return the folder of a version."""
        return os.path.join(self.folder, str(number))

    @property
    def live(self) -> int | None:
        """The version that a server is told to serve; None if there is none."""
        config = self._read_config()
        return config.model_version_policy.specific.versions[0] if config else None

    @property
    def name(self) -> str | None:
        """Of the model at the server; None if nothing was published."""
        config = self._read_config()
        return config.name if config else None

    @property
    def withdrawn(self) -> list[int]:
        """Versions that were rolled back from."""
        return json.loads(files.read(os.path.join(self.folder, _WITHDRAWN)) or "[]")

    def publish(
        self, saved_model: str, complete: Callable[[str, int], None], name: str, base_path: str | None = None
    ) -> int:
        """Make a new version of an exported model, and make it live.

        Args:
          saved_model: folder of the exported model.
          complete: called with the folder that is being written and the version's number, to add what goes along.
          name: of the model at the server.
          base_path: this folder as the server sees it; None if that is as this machine does.

        Returns:
          The number of the version: higher than any before, and by default the time in seconds.
        """
        with self._locked():
            number = self._next_number()
            with self._staged(number) as staged:
                files.copy(saved_model, str(staged), last=_SAVED_MODEL)
                complete(str(staged), number)
                if files.is_local(self.folder):
                    files.flush_all(staged)
                    staged.rename(self.path(number))
                    files.flush(Path(self.folder))
                else:
                    files.copy(str(staged), self.path(number), last=_SAVED_MODEL)
            self._point(number, name, base_path)
        return number

    def make_live(self, number: int, name: str, base_path: str | None = None) -> None:
        """Point a server at a version that is there, and forget that it was withdrawn.

        Args:
          number: of the version.
          name: of the model at the server.
          base_path: this folder as the server sees it; None if that is as this machine does.

        Raises:
          VersionError: there is no such version.
        """
        with self._locked():
            self._check(number)
            self._write_withdrawn(set(self.withdrawn) - {number})
            self._point(number, name, base_path)

    def keep_pointing(self, name: str, base_path: str | None = None) -> None:
        """Have the server told again of the live version if the folder or the model's name is another one by now.

        Args:
          name: of the model at the server.
          base_path: this folder as the server sees it; None if that is as this machine does.
        """
        with self._locked():
            config, live = self._read_config(), self.live
            if config and live is not None and (config.name, config.base_path) != (name, base_path or self.folder):
                self._point(live, name, base_path)

    def rollback(self, to: int | None = None) -> int:
        """Point the server at an earlier version, or at a given one; the versions above it are withdrawn.

        Args:
          to: the version; None takes the highest one below the live one that was not withdrawn itself.

        Returns:
          The version that is live now.

        Raises:
          VersionError: there is no such version, or none to go back to.
        """
        with self._locked():
            config, numbers = self._read_config(), self.numbers()
            if config is None:
                raise VersionError(f"{self.folder}: nothing is published here; expected OUTPUT_DIR/serving of a run")
            live = config.model_version_policy.specific.versions[0]
            if to is None:
                earlier = [number for number in numbers if number < live and number not in self.withdrawn]
                if not earlier:
                    raise VersionError(f"{self.folder}: there is no version before {live}, the live one")
                to = earlier[-1]
            self._check(to)
            self._write_withdrawn({*self.withdrawn, *(number for number in numbers if number > to)} - {to})
            self._point(to, config.name, config.base_path)
        return to

    def prune(self, keep: int) -> list[int]:
        """Delete all but the highest versions; never the live one.

        Args:
          keep: how many stay, the live one among them.

        Returns:
          The versions that were deleted.
        """
        with self._locked():
            live, numbers = self.live, self.numbers()
            others = [number for number in numbers if number != live]
            gone = others[: max(0, len(numbers) - keep)]
            for number in gone:
                if files.is_local(self.folder):
                    files.remove(Path(self.path(number)), Path(self.folder) / _STAGING / f"pruned-{number}")
                else:
                    tf.io.gfile.remove(os.path.join(self.path(number), _SAVED_MODEL))
                    tf.io.gfile.rmtree(self.path(number))
            self._write_withdrawn(set(self.withdrawn) - set(gone))
        return gone

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out, and clean up after those that were killed; object stores have no locks."""
        if not files.is_local(self.folder):
            yield
            return
        with files.locked(Path(self.folder)):
            self._clean()
            yield
            self._clean()

    @contextlib.contextmanager
    def _staged(self, number: int) -> Iterator[Path]:
        """A new folder for a version: beside its place, or on this machine if its place is on an object store."""
        if files.is_local(self.folder):
            yield Path(self.folder) / _STAGING / str(number)
        else:
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / str(number)

    def _next_number(self) -> int:
        """A number above all that were ever given, whatever the clock says."""
        counter = os.path.join(self.folder, _COUNTER)
        last = int(files.read(counter) or 0)
        number = max(int(time.time()), 1 + max([last, *self._numbered()]))
        # Written down first, so that not even a killed publisher's number is given again.
        files.write(counter, str(number))
        return number

    def _check(self, number: int) -> None:
        if number not in self.numbers():
            raise VersionError(f"{self.folder}: no version {number}; there are {self.numbers()}")

    def _numbered(self) -> list[int]:
        """All names that are numbers, also those of what a server could not load."""
        if not tf.io.gfile.isdir(self.folder):
            return []
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(self.folder)]
        return [int(name) for name in names if name.isdigit()]

    def _clean(self) -> None:
        """Remove what a publisher or a pruning left that was killed; the caller holds the lock, so nobody is at it."""
        shutil.rmtree(Path(self.folder) / _STAGING, ignore_errors=True)
        for leftover in Path(self.folder).glob("*.tmp"):
            leftover.unlink(missing_ok=True)

    def _read_config(self) -> model_server_config_pb2.ModelConfig | None:
        text = files.read(self._config)
        if text is None:
            return None
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        return config.model_config_list.config[0]

    def _point(self, number: int, name: str, base_path: str | None) -> None:
        config = model_server_config_pb2.ModelServerConfig()
        one = config.model_config_list.config.add(name=name, base_path=base_path or self.folder, model_platform="tensorflow")
        one.model_version_policy.specific.versions.append(number)
        files.write(self._config, text_format.MessageToString(config))

    def _write_withdrawn(self, numbers: set[int]) -> None:
        if numbers or self.withdrawn:
            files.write(os.path.join(self.folder, _WITHDRAWN), json.dumps(sorted(numbers)))
