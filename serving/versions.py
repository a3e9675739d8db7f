"""The folder that TensorFlow Serving watches: numbered versions of one model, and which of them is live.

A version appears whole or not at all: it is written in `.staging` beside its place, flushed, and renamed. What should be is
in `states.State`; `models.config` follows it, and TensorFlow Serving that, so that rolling back needs no restart.

Machines may share the folder: what a change rests on is looked at when it is made, since `states.swap` takes a step only
from the latest state. The lock only tells a machine's own processes whose leftovers are nobody's.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modules import durable
from serving import files, model_info, server_config, states
from serving.states import State, VersionError

__all__ = [
    "ANYTHING",
    "CONFIG_FILE",
    "GRACE_SECONDS",
    "SupersededError",
    "TornError",
    "VersionError",
    "Versions",
    "WithdrawnError",
]

CONFIG_FILE = server_config.FILE
ANYTHING = "anything"
"""Says that a model goes live whatever is."""
GRACE_SECONDS = 300.0
"""How long a version stays that was live a moment ago: a server may be loading it, longer than it takes to look again."""

_SAVED_MODEL = "saved_model.pb"
_STAGING = ".staging"
_FORGOTTEN_SECONDS = 86_400.0
"""After which nobody on another machine is still at what lies in `.staging`."""
_TRIES = 100


class TornError(RuntimeError):
    """What was written of a version is not what is there."""


class SupersededError(RuntimeError):
    """Another version went live than the one that a model was judged against."""


class WithdrawnError(VersionError):
    """A model that was rolled back, and is not published again.

    Args:
      folder: of the versions.
      number: of the version that it was.
    """

    def __init__(self, folder: str, number: int):
        super().__init__(f"{folder}: the model of version {number} was rolled back")
        self.number = number


class Versions:
    """The versions of one model.

    Args:
      folder: on a file system; need not exist yet.

    Raises:
      VersionError: it is on an object store.
    """

    def __init__(self, folder: str):
        if not files.is_local(folder):
            raise VersionError(f"{folder}: versions are published on file systems alone; expected a folder")
        self.folder = os.path.abspath(folder)
        self._path, self._staging = Path(self.folder), Path(self.folder) / _STAGING

    def numbers(self) -> list[int]:
        """Return the versions that a server could load, in order."""
        return self._loadable(self._state())

    def path(self, number: int) -> str:
        """Return the folder of a version."""
        return os.path.join(self.folder, str(number))

    @property
    def live(self) -> int | None:
        """The version that a server is told to serve; None if there is none."""
        state = self._state()
        return state.live if state else None

    @property
    def name(self) -> str | None:
        """Of the model at the server; None if nothing was published."""
        state = self._state()
        return state.name if state else None

    @property
    def withdrawn(self) -> list[int]:
        """Versions of models that were rolled back."""
        state = self._state()
        return [number for number in self._loadable(state) if state and self._model(number) in state.withdrawn]

    @property
    def served(self) -> int | None:
        """The version that a new model is judged against: the live one, if it is there and known to be served."""
        state = self._state()
        return state.served if state and state.served in self._loadable(state) else None

    def describe(self, name: str, base_path: str | None = None) -> None:
        """Have the server told of the live version under another name or folder, if they are others by now.

        Args:
          name: of the model at the server.
          base_path: this folder as the server sees it; None if that is as this machine does.
        """
        with self._locked():
            if self._state() is not None:
                self._change(lambda state: self._known(state).named(name, base_path))

    def publish(
        self,
        saved_model: str,
        complete: Callable[[str, int], None],
        name: str,
        base_path: str | None = None,
        judged_against: str | None = ANYTHING,
        awaited: bool = False,
    ) -> int:
        """Make an exported model the live version; a new one, unless it is the live or the newest one already.

        Args:
          saved_model: folder of the exported model, wherever TensorFlow reads.
          complete: called with the folder that is being written and the version's number, to add what goes along.
          name: of the model at the server.
          base_path: this folder as the server sees it; None if that is as this machine does.
          judged_against: digest of the model that has to be served still, None if none may be; `ANYTHING` does not ask.
          awaited: whether it has to be confirmed (`confirm`) or is taken back (`retreat`).

        Returns:
          The number of the version: higher than any before, and by default the time in seconds.

        Raises:
          WithdrawnError: this model was rolled back.
          SupersededError: another one is served than it was judged against.
          TornError: somebody changed what was being written.
        """
        digest = model_info.digest(saved_model)

        def checked(state: State | None) -> None:
            if state and digest in state.withdrawn:
                raise WithdrawnError(self.folder, state.withdrawn[digest])
            served = self._model(state.served) if state else None
            if judged_against not in {ANYTHING, served}:
                now = f"version {state.served} is live" if state and served else "nothing is live"
                raise SupersededError(f"{now} since this model was judged: run again, and it is judged against that")

        def named(state: State | None) -> State:
            return self._known(state).named(name, base_path)

        def named_again(state: State | None) -> State:
            known = named(state)
            # Nobody is asked any more.
            return known if awaited or known.live != number else known.with_confirmed()

        def go_live(state: State | None) -> State:
            checked(state)
            if number not in self._loadable(state):
                raise SupersededError(f"version {number} was deleted before it was live: run again")
            return named(state).with_live(number, self._now(), awaited)

        def drop(state: State | None) -> State:
            known = self._known(state)
            # Another publisher of this very model may have made it live.
            needed = number in {known.live, known.before}
            return known if needed else known.model_copy(update={"gone": tuple({*known.gone, number})})

        with self._locked():
            state = self._state()
            if state and state.live is not None and self._model(state.live) == digest:
                number = state.live
                self._change(named_again)
                return number
            checked(state)
            # A publisher may have been killed before its last step, or have gone back since nobody served it.
            newest = max(self._loadable(state), default=None)
            live = (state.live if state else None) or 0
            if newest is not None and newest > live and self._model(newest) == digest:
                number = newest
            else:
                number = self._reserve(name, base_path)
                self._write(saved_model, complete, number)
            try:
                self._change(go_live)
            except (SupersededError, WithdrawnError):
                self._change(drop)
                raise
        return number

    def confirm(self, number: int) -> None:
        """Note that a server serves the live version.

        Args:
          number: of the version.

        Raises:
          SupersededError: another one is live by now.
        """

        def change(state: State | None) -> State:
            if state is None or state.live != number:
                raise SupersededError(f"version {number} was served, and is live no more: run again")
            return state.with_confirmed()

        with self._locked():
            self._change(change)

    def retreat(self, number: int) -> int | None:
        """Go back to the version before one that no server serves; its model may be published again.

        Args:
          number: of the version.

        Returns:
          The version that is live now, if another one; None if there was none to go back to, or no need.
        """

        def change(state: State | None) -> State:
            known = self._known(state)
            if known.live != number or known.confirmed or known.before not in self._models(known):
                return known
            return known.taken_back(self._now())

        with self._locked():
            live = self._change(change).live
        return live if live != number else None

    def rollback(self, to: int | None = None) -> int:
        """Point the server at an earlier version, or at a given one; the models above it, up to the live one, are withdrawn.

        Args:
          to: the version; None takes the highest one below the live one that was served, of another model, not withdrawn.

        Returns:
          The version that is live now.

        Raises:
          VersionError: there is no such version, or none to go back to.
        """

        def change(state: State | None) -> State:
            known = self._known(state)
            try:
                return known.rolled_back(self._models(known), to, self._now())
            except VersionError as error:
                raise VersionError(f"{self.folder}: {error}") from None

        with self._locked():
            live = self._change(change).live
        assert live is not None
        return live

    def prune(self, keep: int, grace: float = GRACE_SECONDS) -> list[int]:
        """Delete the lowest versions, and before them those of withdrawn models.

        Never the live one, the one to go back to, one that was live a moment ago, or one that is not live yet.

        Args:
          keep: how many stay that are not withdrawn, the live one among them.
          grace: seconds that a version stays after it was live.

        Returns:
          The versions that were deleted.
        """
        going: list[int] = []

        def change(state: State | None) -> State:
            known = self._known(state)
            models = self._models(known)
            going[:] = sorted(known.surplus(models, keep, self._now() - grace))
            left = {*(number for number in known.gone if os.path.exists(self.path(number))), *going}
            staying = models.keys() - {*going}
            been_live = tuple(number for number in known.been_live if number in staying)
            retired = {number: then for number, then in known.retired.items() if number in staying}
            unserved = tuple(number for number in known.unserved if number in staying)
            update = {"gone": tuple(sorted(left)), "been_live": been_live, "retired": retired, "unserved": unserved}
            return known.model_copy(update=update)

        with self._locked():
            # Named first, so that nobody makes one live that is about to be deleted.
            self._change(change)
        return going

    def _state(self) -> State | None:
        return states.read(self._path)[1]

    def _known(self, state: State | None) -> State:
        if state is None:
            raise VersionError(f"{self.folder}: nothing is published here; expected OUTPUT_DIR/serving of a run")
        return state

    def _loadable(self, state: State | None) -> list[int]:
        return [one for one in self._numbered() if one not in (state.gone if state else ()) and self._is_there(one)]

    def _numbered(self) -> list[int]:
        """All names that are numbers, also those of what a server could not load."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())
        return []

    def _is_there(self, number: int) -> bool:
        return os.path.isfile(os.path.join(self.path(number), _SAVED_MODEL))

    def _models(self, state: State) -> dict[int, str]:
        """What tells the models of the versions from all others."""
        return {number: model for number in self._loadable(state) if (model := self._model(number))}

    def _model(self, number: int | None) -> str | None:
        """The digest of a version's model; None if it is not there."""
        if number is None or not self._is_there(number):
            return None
        try:
            return model_info.digest(self.path(number))
        except FileNotFoundError:  # a publisher that saw no lock of ours has just taken it away
            return None

    def _change(self, change: Callable[[State | None], State]) -> State:
        """Take a step from the latest state, whichever that is by the time it is taken, and have `models.config` follow."""
        for _ in range(_TRIES):
            seen, state = states.read(self._path)
            new = change(state)
            if (seen and new == state) or states.swap(self._path, seen, new, self._staging):
                self._tell()
                return new
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 so that not all try again at once
        raise VersionError(f"{self.folder}: others change what is live all the time; try again")

    def _tell(self) -> None:
        """Write `models.config`, until it says what the latest state does, whoever else writes it."""
        path = os.path.join(self.folder, CONFIG_FILE)
        while True:
            seen, state = states.read(self._path)
            if state is None or state.live is None:
                return
            text = server_config.ServerConfig(state.name, state.base_path or self.folder, state.live).to_text()
            if files.read(path) != text:
                files.write(path, text, self._staging)
            if states.read(self._path)[0] == seen:
                return

    def _reserve(self, name: str, base_path: str | None) -> int:
        """A number above all that were ever given, whatever the clock says, for nobody else."""

        def change(state: State | None) -> State:
            known = state or State(name=name, base_path=base_path)
            return known.model_copy(update={"last": max(int(time.time()), 1 + max([known.last, *self._numbered()]))})

        return self._change(change).last

    def _write(self, saved_model: str, complete: Callable[[str, int], None], number: int) -> None:
        """Write a version aside, and let it appear."""
        with files.aside(self._staging) as staged:
            written = files.copy(saved_model, str(staged))
            complete(str(staged), number)
            files.flush_all(staged)
            # Others may have taken it for a leftover.
            if torn := model_info.torn(str(staged), written):
                raise TornError(f"{self.folder}: somebody else changed version {number} while it was written: {torn[0]}")
            staged.rename(self.path(number))
        durable.flush(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep the machine's other processes out, and clean up after those that were killed."""
        with files.locked(self._path) as held:
            self._staging.mkdir(exist_ok=True)
            self._clean(held)
            try:
                yield
            finally:
                self._clean(held)

    def _clean(self, held: bool) -> None:
        """Remove what is nobody's: of this machine all, for the caller holds its lock, of others what is old."""
        state = self._state()
        for number in state.gone if state else ():
            files.remove(Path(self.path(number)), self._staging)
        for leftover in self._staging.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if (held and files.is_own(leftover)) or self._now() - leftover.stat().st_mtime > _FORGOTTEN_SECONDS:
                    files.delete(leftover)

    def _now(self) -> float:
        return files.now(self._path)
