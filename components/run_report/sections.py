"""The parts of the page, each as what its template needs."""

from __future__ import annotations

import collections
import functools
import os
import re
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_data_validation as tfdv

from components.cross_validator import scores, suspects
from components.data_gate import executor as data_gate
from components.image_example_gen import belonging, rejects
from components.model_evaluator import gate, predictions, samples
from components.run_report import curves, figures
from components.run_report.answers import MOST, Answers, threshold_for
from components.run_report.facts import Facts
from components.run_report.shown import Card, Shown, pair_cards
from modules import features

EMPTY: dict[str, dict[str, Any]] = {
    "gate": {"rows": [], "more": 0},
    "changed": {"classes": [], "known": False, "more": 0},
    "answers": {"made": False, "compared": False},
    "doubts": {"suspects": [], "copies": []},
    "training": {"made": False},
    "data": {"made": False},
    "history": {"figure": None, "rows": []},
}
"""What the parts are where they can't be made."""

_MOST_CONFUSED, _MOST_IN_MATRIX, _MOST_RUNS, _MOST_LINES, _MOST_ROWS, _MOST_CLASSES = 8, 100, 200, 30, 200, 1000
_LONGEST_REASON, _LONGEST_IN_HISTORY = 500, 200
_WANTED = (0.95, 0.98, 0.99, 0.995)
_KINDS = {"published": "good", "up to date": "good", "refused": "bad", "failed": "bad"}
_SIZES = (features.WIDTH, features.HEIGHT)


_ingested = functools.lru_cache(maxsize=2)(rejects.read_summary)
_together = functools.lru_cache(maxsize=2)(belonging.read_summary)
"""Several parts ask for them, and the files may be long."""


def sentence(facts: Facts) -> str:
    """Return the verdict in a sentence."""
    if facts.verdict in {"published", "up to date"}:
        what = f"Version {facts.version} is " + ("published" if facts.verdict == "published" else "published as it was")
        what += " and live" if facts.live == facts.version else f", and version {facts.live} is live" if facts.live else ""
        return f"{what}: {_accuracy(facts)}." if facts.accuracy is not None else f"{what}."
    how = "stays live" if facts.compared_with in {None, facts.live} else "is live now"
    stays = f" Version {facts.live} {how}." if facts.live else " No model is live."
    where = f" in {facts.node}" if facts.node else ""
    reason = facts.reason.removeprefix(f"{facts.node} failed: ")
    if facts.verdict == "refused":  # the name of the error is for logs
        begun, reason = "Nothing was published", re.sub(r"^\w+Error: ", "", reason)
    else:
        begun = f"The run failed{where}"
    return f"{begun}: {_cut(reason, _LONGEST_REASON).rstrip('.') or 'nobody knows why'}.{stays}"


def _accuracy(facts: Facts) -> str:
    found = f"accuracy {facts.accuracy:.4f}"
    if facts.accuracy_interval:
        low, high = facts.accuracy_interval
        found += f" (95 %: {low:.4f} to {high:.4f})"
    found += f" on {facts.test_pictures} test pictures"
    if facts.baseline_accuracy is not None:
        found += f", where the model that was live before has {facts.baseline_accuracy:.4f}"
    return found


def took(facts: Facts) -> str:
    """Return when the run began, and how long its nodes took; empty if that is not known."""
    own = next((one for one in facts.history if one.run == facts.run), None)
    seconds = sum(node.seconds or 0.0 for node in facts.nodes)
    begun = "" if own is None or own.begun is None else f"begun {own.begun:%Y-%m-%d %H:%M} UTC"
    return ", ".join(filter(None, (begun, f"{seconds:.0f} s" if seconds else "")))


def gate_table(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return the gate's table."""
    del shown
    checks = gate.read(facts.made.evaluation) if facts.made.evaluation else []
    rows = []
    for check in checks:
        metric, value, pictures, threshold, baseline, verdict = check.cells
        value, _, between = value.partition(" (")
        kind = "bad" if not check.passed else "warn" if check.unjudged else "good"
        rows.append(
            {
                "metric": metric,
                "value": value,
                "interval": between.rstrip(")"),
                "pictures": pictures,
                "threshold": threshold,
                "baseline": baseline,
                "verdict": {"FAIL": "refused"}.get(verdict, verdict) if check.threshold else "",
                "note": check.note,
                "kind": kind,
            }
        )
    if len(rows) > _MOST_ROWS:
        rows.sort(key=lambda row: row["kind"] != "bad")
    return {"rows": rows[:_MOST_ROWS], "more": max(0, len(rows) - _MOST_ROWS)}


def changed(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return which classes gained and lost pictures since the live model."""
    del shown
    if not (facts.made.rejects and facts.made_before.rejects):
        return EMPTY["changed"]
    now, before = (_ingested(one).by_label for one in (facts.made.rejects, facts.made_before.rejects))
    rows: list[dict[str, Any]] = [
        {"label": label, "before": before.get(label, 0), "now": now.get(label, 0)}
        for label in sorted(now.keys() | before.keys())
        if now.get(label, 0) != before.get(label, 0)
    ]
    rows.sort(key=lambda row: -abs(row["now"] - row["before"]))
    return {"classes": rows[:_MOST_ROWS], "known": True, "more": max(0, len(rows) - _MOST_ROWS)}


def answers(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return what the answers to the test pictures say."""
    if not facts.made.predictions:
        return EMPTY["answers"]
    labels = _labels(facts)
    found = Answers(predictions.read(facts.made.predictions), labels.before if labels else None)
    pairs = found.confused(_MOST_CONFUSED)
    wanted = (*found.surest_mistakes, *found.lost, *found.won, *(one for pair in pairs for one in pair.pictures))
    shown.look_for(features.TEST, (one.path for one in wanted))
    bins = scores.calibration(found.scores, found.right)
    coverage = found.coverage()
    classes = _classes(facts, found)
    if len(classes) > _MOST_CLASSES:  # the worst
        classes.sort(key=lambda row: 2.0 if row["recall"] is None else row["recall"])
    matrix = found.labels
    if len(matrix) > _MOST_IN_MATRIX:
        wrong = {one.label: one.pictures - one.right + one.answered - one.right for one in found.classes()}
        matrix = sorted(sorted(wrong, key=lambda label: (-wrong[label], label))[:_MOST_IN_MATRIX])
    thresholds = []
    for accuracy_of in _WANTED:
        threshold, share, accuracy = threshold_for(accuracy_of, coverage) or (None, None, None)
        thresholds.append({"wanted": accuracy_of, "threshold": threshold, "share": share, "accuracy": accuracy})
    surest = shown.answered(found.surest_mistakes, labels.model if labels and facts.looks else None)
    return {
        "made": True,
        "compared": found.compared,
        "total": found.total,
        "mistakes": found.mistakes,
        "lost": shown.answered(found.lost),
        "won": shown.answered(found.won),
        "lost_count": found.lost_count,
        "won_count": found.won_count,
        "surest": surest,
        "looked": any(card.looks for card in surest),
        "confusion": figures.confusion(found.confusion(matrix), matrix),
        "left_out": len(found.labels) - len(matrix),
        "pairs": pair_cards(shown, pairs),
        "classes": classes[:_MOST_CLASSES],
        "more_classes": max(0, len(classes) - _MOST_CLASSES),
        "calibration_error": scores.calibration_error(bins),
        "reliability": figures.reliability(bins),
        "coverage": figures.coverage(coverage[1], coverage[2]),
        "thresholds": thresholds,
    }


class _Labels(NamedTuple):
    """What a model knows, in the order of its probabilities, and what the live one does."""

    model: list[str]
    before: list[str] | None


def _labels(facts: Facts) -> _Labels | None:
    """The labels of both models; None where nothing says them."""
    try:
        kept = samples.read(facts.made.evaluation) if facts.made.evaluation else []
    except (OSError, ValueError, tf.errors.OpError):
        return None
    return _Labels(kept[0].labels, kept[0].baseline_labels or None) if kept else None


def _classes(facts: Facts, found: Answers) -> list[dict[str, Any]]:
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    if facts.made.rejects:
        counts.update(_ingested(facts.made.rejects).pictures)
    by_label = {one.label: one for one in found.classes()}
    rows = []
    for label in sorted({*by_label, *(label for _, label in counts)}):
        one = by_label.get(label)
        low, high = gate.interval(one.recall, one.pictures, 0.95) if one and one.recall is not None else (None, None)
        before = one.right_before / one.pictures if one and one.pictures and one.right_before is not None else None
        rows.append(
            {
                "label": label,
                "splits": [counts[split, label] for split in features.SPLITS],
                "precision": one.precision if one else None,
                "recall": one.recall if one else None,
                "interval": "" if low is None else f"{low:.3f} to {high:.3f}",
                "change": None if one is None or one.recall is None or before is None else one.recall - before,
            }
        )
    return rows


def doubts(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return labels that may be wrong, and near-copies across splits or labels."""
    found = dict(EMPTY["doubts"])
    if facts.made.cross_validation:
        all_of_them = suspects.read(facts.made.cross_validation)
        first = all_of_them[:MOST]
        sources = shown.of_paths([(split, one.path) for one in first for split in (features.TRAIN, features.EVAL)])
        cards = [
            Card(one.path, sources.get(one.path), None, one.label, one.suggested_label, one.score, None) for one in first
        ]
        path = rejects.named(facts.made.cross_validation, suspects.FILE)
        found |= {"suspects": cards, "suspect_count": len(all_of_them), "suspects_file": path}
    if facts.made.rejects:
        summary = _together(facts.made.rejects)
        pairs = list(dict.fromkeys((*summary.first_across, *summary.first_disputed)))
        wanted = [place for one in pairs for place in ((one.split, one.path), (one.other_split, one.other))]
        sources = shown.of_paths(wanted)
        copies = [
            one._asdict() | {"sources": [sources[path] for path in (one.path, one.other) if path in sources]}
            for one in pairs
        ]
        if copies:
            found |= {
                "copies": copies,
                "across": summary.across,
                "disputed": summary.disputed,
                "copies_file": summary.path,
            }
    return found


def training(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return curves, rates, and what the model saw."""
    recipe = facts.configuration.get("training", {})
    if not (facts.made.model_run and recipe):
        return EMPTY["training"]
    phases = recipe["phases"]
    found = curves.read(facts.made.model_run, [phase["name"] for phase in phases])
    if not found:
        return EMPTY["training"]
    kept = curves.kept(found, recipe["early_stopping"]["monitor"])
    rates = [
        {"phase": phase["name"], "epochs": phase["epochs"], "pattern": pattern, "rate": rate, "decay": phase["decay"]}
        for phase in phases
        for pattern, rate in phase["learning_rates"]
    ]
    return {
        "made": True,
        "figure": figures.training(found, kept),
        "rates": rates,
        "augmented": shown.augmented(_most_pictures(facts)),
    }


def data(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return what the data are, and what speaks against them."""
    findings = list(facts.findings)
    if facts.made.verdict:
        findings = data_gate.read_findings(facts.made.verdict)
    if not facts.made.rejects:
        return {"made": bool(findings), "splits": [], "lines": [], "rejects": [], "first_rejects": [], "samples": [],
                "sizes": None, "findings": _findings(findings)}  # fmt: skip
    summary = _ingested(facts.made.rejects)
    lines = [summary.describe_labels(), *_together(facts.made.rejects).sentences()]
    if summary.duplicates:
        lines.append(f"{rejects.counted(summary.duplicates, 'copy').replace('copys', 'copies')} left out.")
    if summary.others:
        lines.append(f"{summary.describe_others()}; no pictures, passed over.")
    return {
        "made": True,
        "splits": [(split, summary.by_split.get(split, 0)) for split in features.SPLITS],
        "lines": lines,
        "findings": _findings(findings),
        "rejects": sorted(summary.codes.items(), key=lambda one: (-one[1], one[0])),
        "first_rejects": [{"path": rejects.printable(one.path), "message": one.message} for one in summary.first],
        "samples": shown.samples(_most_pictures(facts)),
        "sizes": _sizes(facts),
    }


def _findings(found: list[Any]) -> list[dict[str, str]]:
    kinds = {data_gate.findings.REFUSED: "bad", data_gate.findings.ALLOWED: "warn", data_gate.findings.WARNING: "warn"}
    together = data_gate.findings.summed(found)
    return [
        {"severity": one.severity, "message": one.message, "kind": kinds[one.severity]} for one in together[:_MOST_LINES]
    ]


def _most_pictures(facts: Facts) -> list[str]:
    """Labels, those with the most pictures first."""
    return [*_ingested(facts.made.rejects).by_label] if facts.made.rejects else []


def _sizes(facts: Facts) -> str | None:
    """Histograms of the sizes of training pictures."""
    if not facts.made.statistics:
        return None
    path = os.path.join(facts.made.statistics, f"Split-{features.TRAIN}", "FeatureStats.pb")
    found = {}
    for feature in tfdv.load_stats_binary(path).datasets[0].features:
        name = feature.name or ".".join(feature.path.step)
        if name in _SIZES and feature.num_stats.histograms:
            buckets = feature.num_stats.histograms[0].buckets
            edges = [bucket.low_value for bucket in buckets] + [buckets[-1].high_value]
            if edges[0] < edges[-1]:
                found[name] = edges, [bucket.sample_count for bucket in buckets]
    return figures.sizes(found) if found else None


def history(facts: Facts, shown: Shown) -> dict[str, Any]:
    """Return all runs of the project."""
    del shown
    runs = list(facts.history)[-_MOST_RUNS:]
    rows = [
        {
            "when": one.run if one.begun is None else f"{one.begun:%Y-%m-%d %H:%M}",
            "verdict": one.verdict,
            "kind": _KINDS.get(one.verdict, "soft"),
            "accuracy": one.accuracy,
            "pictures": one.pictures,
            "version": one.version,
            "live": one.live,
            "changed": ", ".join(one.changed),
            "reason": _cut(one.reason, _LONGEST_IN_HISTORY),
        }
        for one in reversed(runs[-_MOST_LINES:])
    ]
    figure = None
    if sum(one.accuracy is not None for one in runs) > 1:
        published = [one.verdict in {"published", "up to date"} for one in runs]
        figure = figures.history(
            [one.accuracy for one in runs],
            [one.accuracy_interval for one in runs],
            published,
            [one.pictures for one in runs],
        )
    return {"figure": figure, "rows": rows}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
