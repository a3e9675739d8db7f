"""Reads and prepares pictures, many at once, and puts their examples aside on disk: what moves on through Beam is small."""

from __future__ import annotations

import contextlib
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam
import tensorflow as tf

from components.image_example_gen import (
    bundles,
    files,
    inventory,
    listing,
    naming,
    parallel,
    progress,
    rejects,
    signatures,
    sources,
    spill,
)
from components.image_example_gen.rejects import Reject
from components.image_example_gen.spill import Prepared
from modules import autotuning, contents, features, headers, images, machine

REJECTS = "rejects"
OTHERS = "others"
TRAITS = "traits"

_CHANGED = "changed since the source was listed, or while it was read; the next run reads it anew"
_GONE = "was there when the source was listed, and is gone; the next run lists anew"
_Item = TypeVar("_Item")
_log = logging.getLogger("finetune.components.image_example_gen")


class Other(NamedTuple):
    """A file that is no picture, neither by its name nor by its content, and the ending of its name."""

    kind: str


_Fate = tuple[Prepared, bytes, bytes] | Reject | Other


class Settings(NamedTuple):
    """How files are read: the configuration's values that matter here, plain, so that they travel to any worker.

    Attributes:
      background: RGB, 0 to 255 each, behind transparent pixels.
      max_pixels: of a picture.
      image_feature: where tf.Examples that are read hold the encoded picture.
      label_feature: where they hold its label, bytes or int64.
      split_feature: where they hold its split; empty if nowhere.
      group_feature: where they hold what it belongs to, bytes or int64; empty if nowhere.
      group_pattern: regular expression that is searched in paths, whose `group` says it; empty if none does.
    """

    background: tuple[int, int, int]
    max_pixels: int
    image_feature: str
    label_feature: str
    split_feature: str
    group_feature: str = ""
    group_pattern: str = ""


class PrepareImages(beam.DoFn):
    """Turns units of an inventory into (shard, list of `Prepared`), whose examples lie in one range of a file.

    The output `rejects` takes what can't be used, `others` (ending, 1) for each file that is no picture, and `traits` lists
    of such pairs, all of one file.

    Args:
      settings: how to read.
      listed: where the inventory lies.
      folder: where examples are put aside until they are sorted into shards; all workers share it.
      shards: how many there are.
      most: bytes of examples that wait in memory before they are put aside.
    """

    def __init__(self, settings: Settings, listed: str, folder: str, shards: int, most: int):
        super().__init__()
        self._settings = settings
        # However a file system composes letters, in the pattern as in paths.
        self._group = re.compile(unicodedata.normalize("NFC", settings.group_pattern)) if settings.group_pattern else None
        self._listed = listed
        self._folder = folder
        self._shards = shards
        self._most = most

    def setup(self) -> None:
        """Start the threads: decoding and hashing leave Python's lock alone, reading waits for others."""
        threads = 2 * machine.cores()
        self._pool = futures.ThreadPoolExecutor(threads)
        self._ahead = 4 * threads  # enough to do while examples are put aside
        self._done = 0
        self._meter = progress.Meter(progress.place(self._folder))
        self._open = contextlib.ExitStack()
        self._inventory = self._open.enter_context(inventory.opened(self._listed))

    def teardown(self) -> None:
        """End the threads."""
        self._open.close()
        self._pool.shutdown()

    def start_bundle(self) -> None:
        """Begin with nothing at hand, whatever became of the bundle before."""
        self._queue: parallel.Queue[_Fate] = parallel.Queue(self._pool, self._ahead)
        self._aside = spill.Spill(self._folder, self._most)

    def process(self, unit: inventory.Unit) -> Iterator[Any]:
        """Yield what became of pictures of this unit or earlier ones: what is said of an example is on the disk by then."""
        done = self._done
        for entry in self._inventory.read(unit):
            if isinstance(entry, sources.ImageFile):
                yield from self._outputs(self._queue.put(self._file_fate, entry))
            elif isinstance(entry, sources.RecordFile):
                yield from self._process_records(entry)
            elif isinstance(entry, Reject):
                yield beam.pvalue.TaggedOutput(REJECTS, entry)
        self._meter.add(unit, self._done - done)

    def finish_bundle(self) -> Iterator[Any]:
        """Yield what became of the other pictures."""
        done = self._done
        yield from map(bundles.at_end, self._outputs(self._queue.rest()))
        self._meter.end(self._done - done)
        yield from map(bundles.at_end, _told(self._aside.flush()))

    def _outputs(self, fates: Iterable[_Fate]) -> Iterator[Any]:
        for fate in fates:
            if isinstance(fate, Reject):
                yield beam.pvalue.TaggedOutput(REJECTS, fate)
            elif isinstance(fate, Other):
                yield beam.pvalue.TaggedOutput(OTHERS, (fate.kind, 1))
            else:
                self._done += 1
                yield from _told(self._aside.add(shard_of(fate[0].content_hash, self._shards), *fate))

    def _file_fate(self, file: sources.ImageFile) -> _Fate:
        return _guarded(self._prepare_file, file, file.path)

    def _record_fate(self, named: tuple[str, int, bytes]) -> _Fate:
        return _guarded(self._prepare_record, named, named[0])

    def _prepare_file(self, file: sources.ImageFile) -> _Fate:
        if file.size == 0:  # never opened: it may be a pipe, which would be waited for
            if headers.claims_to_be_a_picture(file.path):
                raise headers.BadImageError(headers.EMPTY, "the file is empty")
            return Other(listing.kind_of(file.path))
        try:
            with files.opened(file.uri) as opened:
                if not files.is_as_listed(opened, file.uri, file.size, file.modified):
                    raise headers.BadImageError(rejects.CHANGED, _CHANGED)
                encoded = opened.read(headers.SNIFFED_BYTES)
                if headers.is_no_picture(file.path, encoded):
                    if headers.is_container(encoded):
                        return Reject(file.path, rejects.CONTAINER, listing.IN_A_CONTAINER)
                    return Other(listing.kind_of(file.path))
                if not file.label:
                    raise headers.BadImageError(rejects.NO_LABEL, rejects.IN_NO_CLASS)
                if file.size > images.max_bytes(self._settings.max_pixels):
                    message = f"{file.size} bytes are more than any picture of image.max_megapixels needs"
                    raise headers.BadImageError(rejects.TOO_MANY_BYTES, message)
                encoded += opened.read()
        except FileNotFoundError:
            raise headers.BadImageError(rejects.CHANGED, _GONE) from None
        except OSError as error:
            raise headers.BadImageError(rejects.UNREADABLE, f"can't be read: {listing.reason_of(error)}") from None
        if len(encoded) != file.size:
            raise headers.BadImageError(rejects.CHANGED, _CHANGED)
        return self._prepare(file, encoded)

    def _process_records(self, file: sources.RecordFile) -> Iterator[Any]:
        count = 0
        problem = ""

        def records() -> Iterator[tuple[str, int, bytes]]:
            nonlocal count, problem
            compression = "GZIP" if file.uri.endswith((".gz", ".gzip")) else ""
            try:
                found = files.look_up(file.uri)
                if (found.size, found.modified) != (file.size, file.modified):
                    problem = _CHANGED
                    return
                for record in autotuning.off(tf.data.TFRecordDataset(file.uri, compression)).as_numpy_iterator():
                    yield f"{file.path}#{count}", file.span, record
                    count += 1
            except OSError as error:
                problem = f"can't be read: {listing.reason_of(error)}"
            except tf.errors.OpError as error:
                why = " ".join(error.message.split())
                problem = f"can't be read from record {count} on, and nobody knows how many follow: {why}"

        for record in records():
            yield from self._outputs(self._queue.put(self._record_fate, record))
        if problem:
            yield beam.pvalue.TaggedOutput(REJECTS, Reject(file.path, rejects.CONTAINER, problem))

    def _prepare_record(self, named: tuple[str, int, bytes]) -> _Fate:
        path, span, record = named
        try:
            example = tf.train.Example.FromString(record)
            encoded = _value(example, self._settings.image_feature)
            label = _value(example, self._settings.label_feature).decode()
            split = _value(example, self._settings.split_feature).decode() if self._settings.split_feature else ""
            if split and not naming.split_named(split):
                raise ValueError(f"split {split!r}; expected {', '.join(features.SPLITS)}")
            group = _value(example, self._settings.group_feature).decode() if self._settings.group_feature else ""
        except Exception as error:
            return Reject(path, rejects.BAD_ROW, f"not a tf.Example as data.features describes it: {error}")
        try:
            label = naming.clean_label(label)
        except ValueError as error:
            return Reject(path, rejects.BAD_LABEL, str(error))
        split, group = naming.split_named(split) or "", naming.clean_group(group)
        return self._prepare(sources.ImageFile(path, "", label, split, span, len(encoded), 0, group), encoded)

    def _prepare(self, file: sources.ImageFile, encoded: bytes) -> _Fate:
        group = file.group
        if self._group is not None:
            match = self._group.search(unicodedata.normalize("NFC", file.path))
            group = naming.clean_group(match["group"] or "") if match else ""
            if not group:
                message = f"data.group = {self._settings.group_pattern} finds no group in the path"
                return Reject(file.path, rejects.NO_GROUP, message)
        picture = images.prepare(encoded, self._settings.background, self._settings.max_pixels)
        own_id = contents.id_of(picture.encoded)
        prepared = Prepared(picture.content_hash, picture.own_hash, file.path, file.label, file.split, group, own_id)
        # The order of features would else be another one in each process, and with it the files that are written.
        record = to_example(file, picture).SerializeToString(deterministic=True)
        return prepared, record, signatures.signature(picture.pixels).tobytes()


def _told(parts: list[spill.Part]) -> Iterator[Any]:
    """What lies on disk, for those that write it and for the look at all pictures."""
    yield from parts
    if parts:
        yield beam.pvalue.TaggedOutput(TRAITS, parts)


def _guarded(prepare: Callable[[_Item], _Fate], item: _Item, path: str) -> _Fate:
    """Have whatever goes wrong with one file, and nobody foresaw, be the fate of that file alone."""
    try:
        return prepare(item)
    except headers.BadImageError as error:
        return Reject(path, error.code, str(error))
    except Exception as error:
        _log.warning("%s could not be read", rejects.printable(path), exc_info=True, extra={"details": True})
        return Reject(path, headers.FAILED, f"failed: {type(error).__name__}: {listing.reason_of(error)}; see the log")


def shard_of(content_hash: str, shards: int) -> int:
    """Return the shard of a picture, by the first digits of its hash.

    Args:
      content_hash: in hexadecimal.
      shards: how many there are.
    """
    return int(content_hash[:12], 16) * shards >> 48


def to_example(file: sources.ImageFile, picture: images.Picture) -> tf.train.Example:
    """Return the raw features of one picture."""
    texts = {
        features.IMAGE: picture.encoded,
        features.LABEL: file.label.encode(),
        features.PATH: file.path.encode(),
        features.FORMAT: picture.format.encode(),
        features.CONTENT_HASH: picture.content_hash.encode(),
    }
    numbers = {
        features.SPAN: file.span,
        features.HEIGHT: picture.height,
        features.WIDTH: picture.width,
        features.CHANNELS: picture.channels,
        features.SIZE: picture.bytes,
    }
    example = tf.train.Example()
    feature = example.features.feature  # filled in place: a quarter of the time that messages made one by one take
    for name, text in texts.items():
        feature[name].bytes_list.value.append(text)
    for name, number in numbers.items():
        feature[name].int64_list.value.append(number)
    return example


def _value(example: tf.train.Example, name: str) -> bytes:
    """The one value of a feature, a number as its digits."""
    feature = example.features.feature.get(name)
    if feature is None:
        raise ValueError(f"no feature {name}; found {', '.join(sorted(example.features.feature)) or 'none'}")
    values = [*feature.bytes_list.value, *(str(number).encode() for number in feature.int64_list.value)]
    if len(values) != 1:
        raise ValueError(f"feature {name} has {len(values)} values; expected one, bytes or int64")
    return values[0]
