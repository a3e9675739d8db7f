"""Spans: which folders or files a source with `{SPAN}` in its name stands for, by TFX's own rules."""

from __future__ import annotations

import logging
import os
import re
from typing import NamedTuple

from tfx.components.example_gen import utils
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2

_EXPECTED = "expected {SPAN}, or {YYYY}, {MM} and {DD}, once, and {VERSION} only beside them"
_log = logging.getLogger("finetune.components.image_example_gen")


class DataError(ValueError):
    """Data that can't be used; the message says where and what would be right."""


class Location(NamedTuple):
    """One folder, manifest or pattern of TFRecords.

    Attributes:
      uri: where it is.
      name: its path below the part of the source that all spans share; empty without spans.
      span: its number; 0 without spans.
      version: the latest of the span; None if the source has no `{VERSION}`.
    """

    uri: str
    name: str = ""
    span: int = 0
    version: int | None = None


def divide(source: str) -> tuple[str, str]:
    """Divide a source into the base that all spans share and TFX's pattern below it; without spans, that is `*`.

    Args:
      source: e.g. `photos/{SPAN}/manifest.csv`.
    """
    source = source.removesuffix("/*").rstrip("/") or source
    if "{" not in source:
        return source, "*"
    before = source[: source.index("{")]
    base = before[: before.rindex("/")] if "/" in before else "."
    return base or "/", source[len(base) + 1 :] if "/" in before else source


def resolve(base: str, pattern: str, num_spans: int = 1) -> list[Location]:
    """Find the spans to read: the latest ones that there are, the latest version of each.

    Args:
      base: as `divide` returns it.
      pattern: likewise; `{SPAN}`, or `{YYYY}`, `{MM}` and `{DD}`, and `{VERSION}` mean what they mean to TFX.
      num_spans: how many to read.

    Returns:
      Their locations, the latest last.

    Raises:
      DataError: there is none, or the pattern is not one of TFX's.
    """
    if "{" not in pattern:
        return [Location(base)]
    split = example_gen_pb2.Input.Split(name="source", pattern=pattern)
    where = os.path.join(base, pattern)
    try:
        kinds = by_span, by_date, by_version = utils.verify_split_pattern_specs(split)
    except ValueError as error:
        raise DataError(f"{where}: {error}; {_EXPECTED}") from None
    if not (by_span or by_date):
        raise DataError(f"{where}: {_EXPECTED}")
    # TFX's own search finds the latest span alone; its two halves find all.
    glob, regex = utils._create_matching_glob_and_regex(base, split, *kinds, range_config=None)
    latest: dict[int, Location] = {}
    for path in sorted(fileio.glob(glob)):
        try:
            tokens, span, version_token, version = utils._find_matched_span_version_from_path(path, regex, *kinds)
        except ValueError:
            _log.warning("%s passed over: it has no number where %s has one", path, where)
            continue
        known = latest.get(span)
        if known is None or (by_version and version > known.version):
            name = _fill(pattern, tokens, version_token)
            latest[span] = Location(os.path.join(base, name), name, span, version)
    if not latest:
        raise DataError(f"{where}: no span found: nothing there has a number in that place")
    return [latest[span] for span in sorted(latest)[-num_spans:]]


def _fill(pattern: str, span_tokens: list[str], version_token: str | None) -> str:
    """Put the numbers, as they are written, in the place of their names."""
    specs = [utils.SPAN_FULL_REGEX] if len(span_tokens) == 1 else [re.escape(spec) for spec in utils.DATE_SPECS]
    for spec, token in zip(specs, span_tokens, strict=True):
        pattern = re.sub(spec, token, pattern)
    return re.sub(utils.VERSION_FULL_REGEX, version_token, pattern) if version_token else pattern
