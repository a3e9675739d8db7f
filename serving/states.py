"""What should be of a folder of versions, and how that changes: a step at a time, whoever takes it.

A state is a folder of its own, `.state/N`, that never changes. Who wants another one writes it aside, and renames it to
`.state/N+1`. That fails where somebody else was faster; then what there is now is read, and decided on anew. So no step is
lost, and none is taken on what is no longer so, between processes and between machines that share a volume, where locks may
not work.

Assumed of the file system is that renaming a folder is atomic for all who see it, and fails where the new name is a folder
with something in it: POSIX, and so local disks, NFS and CephFS; not object stores that are mounted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pydantic

from modules import durable
from serving import files, model_info, server_config

FOLDER = ".state"
_FILE = "state.json"
_KEPT = 100
"""States that stay, so that who has read one of them does not take the next name for a free one."""
_LAST_VERSION, _WITHDRAWN = ".last_version", ".withdrawn"
"""Files of the layout before there were states."""


class VersionError(ValueError):
    """A version that is not there, or can't be what was asked for, or a state that can't be read."""


class State(pydantic.BaseModel):
    """What should be."""

    model_config = pydantic.ConfigDict(frozen=True)

    name: str
    """Of the model at the server."""
    base_path: str | None
    """The folder as the server sees it; None if that is as this machine does, wherever the folder is moved."""
    last: int = 0
    """The highest number that was given to a version."""
    live: int | None = None
    """The version that a server is told to serve."""
    confirmed: bool = True
    """Whether a server is known to serve it, or nobody is asked."""
    before: int | None = None
    """The version to go back to if it is not served; None once it is."""
    withdrawn: dict[str, int] = {}
    """Digests of the models that were rolled back, and the number of the version that each had."""
    been_live: tuple[int, ...] = ()
    """Versions that a server served, as far as anybody knows."""
    retired: dict[int, float] = {}
    """When versions ceased to be live, in seconds since 1970, by the clock of the file system."""
    unserved: tuple[int, ...] = ()
    """Versions that were taken back since no server served them, and that were not live again."""
    gone: tuple[int, ...] = ()
    """Versions that are being deleted."""

    @property
    def served(self) -> int | None:
        """The version that new models are judged against: the live one, once it is confirmed."""
        return self.live if self.confirmed else self.before

    def named(self, name: str, base_path: str | None) -> State:
        """Return the state with another name of the model, and another folder as the server sees it."""
        return self.model_copy(update={"name": name, "base_path": base_path})

    def with_live(self, number: int, now: float, awaited: bool = False) -> State:
        """Return the state in which another version is live.

        Args:
          number: of the version.
          now: seconds since 1970.
          awaited: whether it has to be confirmed.
        """
        before = self.served if awaited else None
        retired = self.retired | ({} if self.live is None else {self.live: now})
        retired.pop(number, None)
        unserved = tuple(one for one in self.unserved if one != number)
        update = {"live": number, "confirmed": False, "before": before, "retired": retired, "unserved": unserved}
        new = self.model_copy(update=update)
        return new if awaited else new.with_confirmed()

    def taken_back(self, now: float) -> State:
        """Return the state in which the version before the live one, which no server serves, is live again.

        Args:
          now: seconds since 1970.
        """
        assert self.live is not None
        assert self.before is not None
        new = self.with_live(self.before, now)
        return new.model_copy(update={"unserved": (*new.unserved, self.live)})

    def with_confirmed(self) -> State:
        """Return the state in which the live version is served."""
        been_live = {*self.been_live} | ({self.live} if self.live is not None else set())
        return self.model_copy(update={"confirmed": True, "before": None, "been_live": tuple(sorted(been_live))})

    def rolled_back(self, models: dict[int, str], to: int | None, now: float) -> State:
        """Return the state in which an earlier version is live, and the models above it are withdrawn.

        Args:
          models: digests, by the numbers of the versions that are there.
          to: the version; None takes the highest one below the live one that was served, of another model, not withdrawn.
          now: seconds since 1970.

        Raises:
          VersionError: there is no such version, or none to go back to.
        """
        if self.live is None:
            raise VersionError("nothing is live")
        if to is None:
            out = {*self.withdrawn, models.get(self.live)}
            earlier = [one for one in self.been_live if one < self.live and one in models and models[one] not in out]
            if not earlier:
                raise VersionError(f"there is no version before {self.live}, the live one")
            to = earlier[-1]
        if to not in models:
            raise VersionError(f"no version {to}; there are {sorted(models)}")
        above = {model: number for number, model in models.items() if to < number <= self.live}
        withdrawn = above | self.withdrawn
        withdrawn.pop(models[to], None)
        return self.model_copy(update={"withdrawn": withdrawn}).with_live(to, now)

    def surplus(self, models: dict[int, str], keep: int, since: float) -> list[int]:
        """Return the versions that go: the lowest, and before them those that are withdrawn or were never served.

        Args:
          models: digests, by the numbers of the versions that are there.
          keep: how many others stay, the live one among them.
          since: what was live later stays, in seconds since 1970.
        """
        live = self.live or 0
        good = [one for one in sorted(models) if one in self.been_live and models[one] not in self.withdrawn]
        # The newest one that nobody served is for another try. All else above the live one is about to be live.
        unserved = sorted({*self.unserved} & models.keys())[:-1]
        out = {one for one in models if one < live or one in unserved or models[one] in self.withdrawn}
        bad = [one for one in sorted(out) if one not in good]
        staying = {self.live, self.before}
        order = [one for one in (*bad, *good) if one not in staying]
        young = {one for one, then in self.retired.items() if then > since}
        return [one for one in order[: max(0, len(bad) + len(good) - keep)] if one not in young]


def read(folder: Path) -> tuple[int, State | None]:
    """Return the number of the latest state, and the state; 0 and None if there is none.

    Args:
      folder: of the versions.

    Raises:
      VersionError: it can't be read.
    """
    numbers = _numbers(folder)
    if not numbers:
        return 0, _of_earlier_layout(folder)
    path = folder / FOLDER / str(numbers[-1]) / _FILE
    try:
        return numbers[-1], State.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, pydantic.ValidationError) as error:
        if _numbers(folder)[-1:] != numbers[-1:]:
            return read(folder)  # it grew old while it was read
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise VersionError(f"{path} can't be read ({reason}); delete the folder it is in for the state before") from None


def swap(folder: Path, seen: int, new: State, staging: Path) -> bool:
    """Put a state behind the one that was read, unless another one is there.

    Args:
      folder: of the versions.
      seen: number of the state that was read.
      new: the state.
      staging: a folder on the same file system.

    Returns:
      Whether it is the latest state now.
    """
    with files.aside(staging) as unfinished:
        unfinished.mkdir()
        files.write(str(unfinished / _FILE), new.model_dump_json(indent=1))
        if not durable.publish_folder(unfinished, folder / FOLDER / str(seen + 1)):
            files.delete(unfinished)
            return False
    for number in _numbers(folder)[:-_KEPT]:
        files.remove(folder / FOLDER / str(number), staging)
    for name in (_LAST_VERSION, _WITHDRAWN):
        (folder / name).unlink(missing_ok=True)
    return True


def _numbers(folder: Path) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(folder / FOLDER) if name.isdigit())
    except FileNotFoundError:
        return []


def _of_earlier_layout(folder: Path) -> State | None:
    """The state of a folder that was published to before there were states: `models.config` said what is live."""
    text = files.read(str(folder / server_config.FILE))
    if text is None:
        return None
    try:
        config = server_config.parse(text)
    except ValueError as error:
        raise VersionError(f"{folder}: {error}") from None
    withdrawn = [folder / str(number) for number in json.loads(files.read(str(folder / _WITHDRAWN)) or "[]")]
    return State(
        name=config.name,
        base_path=None if config.base_path == str(folder) else config.base_path,
        last=int(files.read(str(folder / _LAST_VERSION)) or 0),
        live=config.version,
        been_live=tuple(sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())),
        withdrawn={model_info.digest(str(path)): int(path.name) for path in withdrawn if path.is_dir()},
    )
