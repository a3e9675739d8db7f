"""What speaks against data: found in their statistics, their anomalies, their rejects, and the data accepted last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.image_example_gen import belonging, naming, rejects
from modules import features

REFUSED, ALLOWED, WARNING = "refused", "allowed", "warning"

_LAST = "the data accepted last"
_MOST_ALIKE = 5
_NOTHING_KNOWN = {
    features.EVAL: "nothing of it tells when to stop training",
    features.TEST: "the gate knows nothing of it",
}
_MORE = "add pictures of it, or give that split a larger share in data.splits, where that decides"
_SIZES = (features.HEIGHT, features.WIDTH)


class Finding(NamedTuple):
    """One thing that speaks against data.

    Attributes:
      severity: refused, allowed by the configuration, or only a warning.
      message: what, in a line.
      group: what many of its like say together, with `{count}` for their number; empty if it has none.
      name: its own part of that.
    """

    severity: str
    message: str
    group: str = ""
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is asked of data; the configuration's `data` section says what each means, `evaluation` of the last."""

    max_rejected_fraction: float
    min_images_per_class: int
    near_copies: str
    unreadable: str
    similar_labels: str
    new_labels: str
    missing_labels: str
    max_label_drift: float | None
    max_size_drift: float | None
    folds: int | None


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known of data.

    Attributes:
      summary: what ingestion made of the source.
      statistics: of the train split.
      schema_labels: labels that the schema knows.
      anomalies: against the schema, by split.
      together: what ingestion found to belong together.
    """

    summary: rejects.Summary
    statistics: statistics_pb2.DatasetFeatureStatisticsList
    schema_labels: frozenset[str]
    anomalies: Mapping[str, anomalies_pb2.Anomalies]
    together: belonging.Summary


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What is kept of accepted data: its labels, and the statistics of its train split."""

    labels: frozenset[str]
    statistics: statistics_pb2.DatasetFeatureStatisticsList


def judge(limits: Limits, evidence: Evidence, baseline: Baseline | None) -> list[Finding]:
    """Find what speaks against data.

    Args:
      limits: what is asked of them.
      evidence: what is known of them.
      baseline: the data accepted last; None if none were.

    Returns:
      The findings; data pass if none is refused.
    """
    known = evidence.schema_labels
    accepted = baseline.labels if baseline else frozenset()
    findings = [*_containers(limits, evidence.summary), *_rejected(limits, evidence.summary)]
    findings += [*_similar_labels(limits, evidence.summary), *_empty(evidence.summary)]
    findings += _near_copies(limits, evidence.together)
    findings += _anomalies(limits, evidence, accepted)
    findings += _missing_labels(limits, evidence.summary, known, "the schema")
    if baseline is not None:
        findings += _new_labels(limits, evidence.summary, baseline.labels)
        findings += _missing_labels(limits, evidence.summary, baseline.labels - (known - evidence.summary.labels), _LAST)
        findings += _drift(limits, evidence.statistics, baseline.statistics)
    return [*findings, *_too_few(limits, evidence.summary), *_too_few_for_folds(limits, evidence.summary)]


def summed(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with those of a group in one, where there are many of its like.

    Args:
      findings: as `judge` returns them.
    """
    groups: dict[tuple[str, str], list[Finding]] = {}
    for number, finding in enumerate(findings):
        groups.setdefault((finding.severity, finding.group or f"alone {number}"), []).append(finding)
    together = []
    for (severity, group), members in groups.items():
        if len(members) <= _MOST_ALIKE:
            together += members
        else:
            names = ", ".join(member.name for member in members[:_MOST_ALIKE])
            more = len(members) - _MOST_ALIKE
            together.append(Finding(severity, f"{group.replace('{count}', str(len(members)))}: {names} and {more} more"))
    return together


def similar(labels: Iterable[str]) -> list[list[str]]:
    """Return the labels that differ only by case, blanks or invisible characters, together.

    Args:
      labels: those that there are.
    """
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(naming.visible(label), []).append(label)
    return [together for together in alike.values() if len(together) > 1]


def _containers(limits: Limits, summary: rejects.Summary) -> Iterator[Finding]:
    if count := summary.codes.get(rejects.CONTAINER):
        named = "; ".join(f"{rejects.printable(reject.path)}: {reject.message}" for reject in summary.containers)
        more = "; …" if count > len(summary.containers) else ""
        what = "a folder or file" if count == 1 else f"{count} folders or files"
        yield _allowable(
            limits.unreadable, "data.unreadable", f"can't be read to its end: {what} of many pictures: {named}{more}"
        )


def _similar_labels(limits: Limits, summary: rejects.Summary) -> Iterator[Finding]:
    counts = summary.by_label
    for together in similar(counts):
        named = " and ".join(f"{label!a} ({rejects.counted(counts[label], 'picture')})" for label in together)
        message = f"labels differ only by case, blanks or invisible characters: {named}; rename one"
        group = "{count} groups of labels differ only by case, blanks or invisible characters"
        yield _allowable(limits.similar_labels, "data.similar_labels", message, group, named)


def _empty(summary: rejects.Summary) -> Iterator[Finding]:
    for label in summary.empty:
        message = f"the class folder {label} has no picture that can be used"
        yield Finding(WARNING, message, "{count} class folders have no picture that can be used", label)


def _near_copies(limits: Limits, together: belonging.Summary) -> Iterator[Finding]:
    if together.across:
        severity = REFUSED if limits.near_copies == "refuse" else WARNING
        yield Finding(severity, f"{together.describe_across()}; data.near_copies = same_split puts them on one side")
    if together.disputed:
        yield Finding(WARNING, together.describe_disputed())


def _rejected(limits: Limits, summary: rejects.Summary) -> Iterator[Finding]:
    if summary.fraction > limits.max_rejected_fraction:
        share = (
            f"{summary.fraction:.2%} of the files, more than data.max_rejected_fraction = {limits.max_rejected_fraction:g}"
        )
        yield Finding(REFUSED, f"{share}: {summary.describe()}")


def _anomalies(limits: Limits, evidence: Evidence, accepted: frozenset[str]) -> Iterator[Finding]:
    for split, anomalies in evidence.anomalies.items():
        for name, info in sorted(anomalies.anomaly_info.items()):
            kinds = {reason.type for reason in info.reason}
            if name == features.LABEL and kinds == {anomalies_pb2.AnomalyInfo.ENUM_TYPE_UNEXPECTED_STRING_VALUES}:
                yield from _labels_beyond_schema(limits, evidence, split, accepted)
            else:
                yield Finding(REFUSED, f"{name} in {split} against the schema: {info.description}")
        if anomalies.HasField("dataset_anomaly_info"):
            yield Finding(REFUSED, f"{split} against the schema: {anomalies.dataset_anomaly_info.description}")


def _labels_beyond_schema(limits: Limits, evidence: Evidence, split: str, accepted: frozenset[str]) -> Iterator[Finding]:
    """Labels of a split that neither the schema knows nor data that were accepted: those were asked for once."""
    found = {label for of_split, label in evidence.summary.pictures if of_split == split}
    for label in sorted(found - evidence.schema_labels - accepted):
        count = rejects.counted(evidence.summary.pictures[split, label], "picture")
        yield _allowable(
            limits.new_labels,
            "data.new_labels",
            f"label never seen: {label} ({count} in {split}) is not in the schema",
            f"labels never seen: {{count}} in {split} are not in the schema",
            f"{label} ({count})",
        )


def _new_labels(limits: Limits, summary: rejects.Summary, known: frozenset[str]) -> Iterator[Finding]:
    counts = summary.by_label
    for label in sorted(counts.keys() - known):
        count = rejects.counted(counts[label], "picture")
        yield _allowable(
            limits.new_labels,
            "data.new_labels",
            f"label never seen: {label} ({count}) is not in {_LAST}",
            f"labels never seen: {{count}} are not in {_LAST}",
            f"{label} ({count})",
        )


def _missing_labels(limits: Limits, summary: rejects.Summary, known: frozenset[str], where: str) -> Iterator[Finding]:
    for label in sorted(known - summary.labels):
        message = f"label disappeared: {label} is in {where} and has no picture now"
        group = f"labels disappeared: {{count}} are in {where} and have no picture now"
        yield _allowable(limits.missing_labels, "data.missing_labels", message, group, label)


def _drift(
    limits: Limits,
    current: statistics_pb2.DatasetFeatureStatisticsList,
    previous: statistics_pb2.DatasetFeatureStatisticsList,
) -> Iterator[Finding]:
    bounds = {features.LABEL: (limits.max_label_drift, "data.max_label_drift")}
    bounds |= dict.fromkeys(_SIZES, (limits.max_size_drift, "data.max_size_drift"))
    for name, distance in distances(current, previous, bounds).items():
        bound, key = bounds[name]
        if bound is not None and distance > bound:
            yield Finding(
                REFUSED,
                f"{name} drifted: its distribution in train is {distance:.3f} from that of {_LAST}"
                f" (Jensen-Shannon divergence), more than {key} = {bound:g}",
            )


def distances(
    current: statistics_pb2.DatasetFeatureStatisticsList,
    previous: statistics_pb2.DatasetFeatureStatisticsList,
    names: Iterable[str],
) -> dict[str, float]:
    """Return how far features drifted: the Jensen-Shannon divergence that TFDV computes, 0 (equal) to 1.

    Args:
      current: statistics of one split.
      previous: of the same split of other data.
      names: of the features; label, height or width.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    schema = schema_pb2.Schema()
    for name in names:
        feature = schema.feature.add(name=name, type=schema_pb2.BYTES if name == features.LABEL else schema_pb2.INT)
        feature.drift_comparator.jensen_shannon_divergence.threshold = 0.0
    validated = tfdv.validate_statistics(current, schema, previous_statistics=previous)
    return {
        info.path.step[0]: measurement.value for info in validated.drift_skew_info for measurement in info.drift_measurements
    }


def _too_few(limits: Limits, summary: rejects.Summary) -> Iterator[Finding]:
    for label in sorted(summary.labels):
        counts = {split: summary.pictures.get((split, label), 0) for split in features.SPLITS}
        if counts[features.TRAIN] < limits.min_images_per_class:
            yield Finding(
                REFUSED,
                f"too few pictures: {label} has {counts[features.TRAIN]} in train,"
                f" fewer than data.min_images_per_class = {limits.min_images_per_class}",
                f"too few pictures: {{count}} labels have fewer in train than data.min_images_per_class ="
                f" {limits.min_images_per_class}",
                f"{label} ({counts[features.TRAIN]})",
            )
        for split, left_out in _NOTHING_KNOWN.items():
            if not counts[split]:
                yield Finding(
                    WARNING,
                    f"{label} has no picture in {split}, so {left_out}: {_MORE}",
                    f"{{count}} labels have no picture in {split}, so {left_out} ({_MORE})",
                    label,
                )


def _too_few_for_folds(limits: Limits, summary: rejects.Summary) -> Iterator[Finding]:
    if limits.folds is None:
        return
    what = f"fewer pictures in train and eval than evaluation.folds = {limits.folds}, so some folds have none of it"
    hint = "add pictures of it, or lower evaluation.folds"
    for label in sorted(summary.labels):
        count = sum(summary.pictures.get((split, label), 0) for split in (features.TRAIN, features.EVAL))
        if count < limits.folds:
            group = f"{{count}} labels have {what} ({hint})"
            yield Finding(WARNING, f"{label} has {count}, {what}: {hint}", group, f"{label} ({count})")


def _allowable(policy: str, key: str, message: str, group: str = "", name: str = "") -> Finding:
    if policy == "allow":
        return Finding(ALLOWED, message, group, name)
    hint = f"{key} = allow takes it"
    return Finding(REFUSED, f"{message}; {hint}", group and f"{group} ({hint})", name)
