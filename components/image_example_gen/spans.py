"""Spans: which folders or files a source with `{SPAN}` in its name stands for.

The names mean what they mean to TFX, whose own search takes whatever `int()` reads, `2026_1_1` for 202611, and fails at the
first name without a number.
"""

from __future__ import annotations

import datetime
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from components.image_example_gen import files, listing, rejects

_EXPECTED = "expected {SPAN}, or {YYYY}, {MM} and {DD}, once, and {VERSION} only beside them"
_PLACEHOLDER = re.compile(r"\{(?:(?P<number>SPAN|VERSION)(?::(?P<width>[1-9][0-9]*))?|(?P<date>YYYY|MM|DD))\}")
_DATE = {"YYYY": 4, "MM": 2, "DD": 2}
"""Digits of each."""
_ANY_NUMBER = re.compile(r"\{(SPAN|VERSION)\}")
_EPOCH = datetime.date(1970, 1, 1)
_LARGEST = 2**63 - 1
_MOST_NAMED = 20
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

    What is on this machine by its very name has no spans.

    Args:
      source: e.g. `photos/{SPAN}/manifest.csv`.
    """
    source = files.plain(source)
    source = source.removesuffix("/*").rstrip("/") or source
    if "{" not in source or (files.is_local(source) and files.exists(source)):
        return source, "*"
    before = source[: source.index("{")]
    base = before[: before.rindex("/")] if "/" in before else "."
    return base or "/", source[len(base) + 1 :] if "/" in before else source


def resolve(base: str, pattern: str, num_spans: int = 1) -> list[Location]:
    """Find the spans to read: the latest ones that there are, the latest version of each.

    Whatever has a name of that shape and can't be used is named in a warning, with what is wrong about it; hidden files and
    the like of `Thumbs.db` are passed over without a word.

    Args:
      base: as `divide` returns it.
      pattern: likewise; `{SPAN}`, or `{YYYY}`, `{MM}` and `{DD}`, and `{VERSION}` mean what they mean to TFX. All of them
        stand for digits, 0 to 9, alone.
      num_spans: how many to read.

    Returns:
      Their locations, the latest last.

    Raises:
      DataError: there is none, or the pattern is not one of TFX's.
    """
    if "{" not in pattern:
        return [Location(base)]
    where = os.path.join(base, pattern)
    _check_pattern(where, pattern)
    components = pattern.split("/")
    last = max(place for place, component in enumerate(components) if _PLACEHOLDER.search(component))
    rest = "/".join(components[last + 1 :])
    wrong: list[str] = []
    found = _latest_versions(_named(base, components[: last + 1], wrong), wrong)
    read: list[Location] = []
    for span in sorted(found, reverse=True):
        name, version = found[span]
        location = Location(os.path.join(base, name, rest).rstrip("/"), os.path.join(name, rest).rstrip("/"), span, version)
        if len(read) < num_spans and _is_there(location.uri):
            read.append(location)
        elif len(read) < num_spans:
            wrong.append(f"{name} has no {rest}" if rest else f"{name} is a link that leads nowhere")
    if not read:
        raise DataError(f"{where}: no span found: {_abridged(wrong) or 'nothing there has a number in that place'}")
    for reason in wrong[:_MOST_NAMED]:
        _log.warning("%s: passed over: %s", where, reason)
    if len(wrong) > _MOST_NAMED:
        _log.warning("%s: passed over: %d more", where, len(wrong) - _MOST_NAMED)
    read.reverse()
    _log.info("%s: read %d of %d spans: %s", where, len(read), len(found), in_words(location.name for location in read))
    return read


def in_words(names: Iterable[str]) -> str:
    """Return the names of spans as text: all of a few, else the first and the last.

    Args:
      names: of the spans, in their order.
    """
    known = list(names)
    return ", ".join(known if len(known) <= 10 else [*known[:4], "…", *known[-4:]])


def _check_pattern(where: str, pattern: str) -> None:
    names = [match["number"] or match["date"] for match in _PLACEHOLDER.finditer(pattern)]
    kinds = sorted(name for name in names if name != "VERSION")
    if kinds not in (["SPAN"], sorted(_DATE)) or names.count("VERSION") > 1 or "{" in _PLACEHOLDER.sub("", pattern):
        raise DataError(f"{where}: {_EXPECTED}")


def _named(base: str, components: list[str], wrong: list[str]) -> Iterator[tuple[str, int, Mapping[str, str]]]:
    """Walk down the components of a pattern; yield names below the base with their span and the digits that they have."""
    places: dict[str, dict[str, str]] = {"": {}}
    for component in components:
        if not _PLACEHOLDER.search(component):
            places = {os.path.join(name, component): digits for name, digits in places.items()}
            continue
        deeper: dict[str, dict[str, str]] = {}
        for name, digits in places.items():
            for entry in _entries(base, name, wrong):
                if match := _expression(component, digits_alone=True).fullmatch(entry):
                    own = digits | match.groupdict()
                    deeper[os.path.join(name, _filled(component, own))] = own
                elif _expression(component, digits_alone=False).fullmatch(entry):
                    zeros = "" if _ANY_NUMBER.search(component) else ", with leading zeros"
                    shown = rejects.printable(os.path.join(name, entry))
                    wrong.append(f"{shown} does not fit {component}: digits 0 to 9 alone{zeros}")
        places = deeper
    for name, digits in places.items():
        try:
            yield name, _number(digits), digits
        except ValueError as error:
            wrong.append(f"{name} {error}")


def _entries(base: str, name: str, wrong: list[str]) -> list[str]:
    """The names in a place, which may be a glob."""
    folder = os.path.join(base, name)
    folders = files.matches(folder)
    if not any(map(files.is_folder, folders)):
        wrong.append(f"{name or base} is no folder")
    entries = set()
    for one in filter(files.is_folder, folders):
        try:
            entries.update(files.names(one))
        except files.ERRORS as error:
            wrong.append(f"{name or base} can't be listed: {listing.reason_of(error)}")
    return sorted(entry for entry in entries if not listing.is_hidden(entry))


def _latest_versions(
    named: Iterable[tuple[str, int, Mapping[str, str]]], wrong: list[str]
) -> dict[int, tuple[str, int | None]]:
    """The name and version to read of each span; what has a number that another has too is named."""
    by_span: dict[int, list[tuple[int, str, Mapping[str, str]]]] = {}
    for name, span, digits in named:
        by_span.setdefault(span, []).append((int(digits.get("VERSION", 0)), name, digits))
    found: dict[int, tuple[str, int | None]] = {}
    for span, versions in by_span.items():
        version, name, digits = max(versions, key=lambda one: one[0])
        found[span] = name, version if "VERSION" in digits else None
        for other_version, other, its_digits in versions:
            same_folder = its_digits.get("SPAN") == digits.get("SPAN")
            if other != name and (other_version == version or not same_folder):
                wrong.append(f"{other} has a number that {name} has too, which goes before it")
    return found


def _number(digits: Mapping[str, str]) -> int:
    """The number of a span, for a date the days since 1970."""
    if "SPAN" in digits:
        if max(map(int, digits.values())) > _LARGEST:
            raise ValueError(f"has a number above {_LARGEST}")
        return int(digits["SPAN"])
    year, month, day = (digits[name] for name in _DATE)
    try:
        return (datetime.date(int(year), int(month), int(day)) - _EPOCH).days
    except ValueError:
        raise ValueError(f"is no date: there is no {year}-{month}-{day}") from None


def _expression(component: str, digits_alone: bool) -> re.Pattern[str]:
    """A component as a regular expression, with digits, or with anything, where it has a number."""
    text, end = "", 0
    for match in _PLACEHOLDER.finditer(component):
        width = match["width"] or _DATE.get(match["date"])
        digits = f"[0-9]{{{width}}}" if width else "[0-9]+"
        group = f"(?P<{match['number'] or match['date']}>{digits if digits_alone else '.*'})"
        text += _literal(component[end : match.start()]) + group
        end = match.end()
    return re.compile(text + _literal(component[end:]), re.DOTALL)


def _literal(text: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in text)


def _filled(component: str, digits: Mapping[str, str]) -> str:
    """A component with the numbers, as they are written, in the place of their names."""
    return _PLACEHOLDER.sub(lambda match: digits[match["number"] or match["date"]], component)


def _is_there(uri: str) -> bool:
    return bool(files.matches(uri))


def _abridged(reasons: list[str]) -> str:
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more
