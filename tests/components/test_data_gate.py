import dataclasses

import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from components.data_gate import findings
from components.data_gate.findings import ALLOWED, REFUSED, WARNING
from components.image_example_gen import belonging, rejects
from modules import features

LIMITS = findings.Limits(0.01, 5, "warn", "refuse", "refuse", "refuse", "refuse", 0.1, 0.3, None)
Counts = dict[str, int]


def statistics(counts: Counts, size: int) -> statistics_pb2.DatasetFeatureStatisticsList:
    labels = [label for label, count in counts.items() for _ in range(count)]
    sizes = [size + i % 10 for i in range(len(labels))]
    return tfdv.generate_statistics_from_dataframe(pd.DataFrame({"label": labels, "height": sizes, "width": sizes}))


def evidence(
    counts: Counts, size: int = 100, rejected: int = 0, known: set[str] | None = None, without: tuple[str, str] | None = None
) -> findings.Evidence:
    pictures = {(split, label): count for label, count in counts.items() for split in features.SPLITS}
    pictures.pop(without, None)
    first = tuple(rejects.Reject(f"{i}.jpg", "damaged", "is damaged") for i in range(min(rejected, 10)))
    summary = rejects.Summary(pictures, rejected, 0, first, {"damaged": rejected}, "report/rejects.jsonl")
    return findings.Evidence(summary, statistics(counts, size), frozenset(known or counts), {}, belonging.Summary())


def baseline(counts: Counts, size: int = 100) -> findings.Baseline:
    return findings.Baseline(frozenset(counts), statistics(counts, size))


def found(given: findings.Evidence, before: findings.Baseline | None = None, **limits: object) -> list[tuple[str, str]]:
    judged = findings.judge(dataclasses.replace(LIMITS, **limits), given, before)
    return [(finding.severity, finding.message) for finding in judged]


def test_good_data_pass_alone_and_beside_their_like() -> None:
    counts = {"cat": 50, "dog": 60}
    assert found(evidence(counts)) == []
    assert found(evidence(counts), baseline({"cat": 52, "dog": 55})) == []


def test_a_label_never_seen_and_one_that_disappeared_are_refused_unless_allowed() -> None:
    given, before = evidence({"cat": 50, "newt": 3 * 5}), baseline({"cat": 50, "dog": 15})
    messages = [message for severity, message in found(given, before, max_label_drift=None) if severity == REFUSED]
    assert len(messages) == 2
    assert messages[0].startswith("label never seen: newt (45 pictures)")
    assert "data.new_labels = allow" in messages[0]
    assert messages[1].startswith("label disappeared: dog")
    allowed = found(given, before, max_label_drift=None, new_labels="allow", missing_labels="allow")
    assert [severity for severity, _ in allowed] == [ALLOWED, ALLOWED]


def test_a_label_that_the_schema_knows_may_not_disappear() -> None:
    ((severity, message),) = found(evidence({"cat": 50, "dog": 50}, known={"cat", "dog", "owl"}))
    assert severity == REFUSED
    assert message.startswith("label disappeared: owl is in the schema")


def test_too_few_pictures_of_a_class_are_refused_in_train_and_none_elsewhere_is_a_warning() -> None:
    ((severity, message),) = found(evidence({"cat": 50, "dog": 4}))
    assert severity == REFUSED
    assert "dog has 4 in train, fewer than data.min_images_per_class = 5" in message
    assert found(evidence({"cat": 50, "dog": 5})) == []
    ((severity, message),) = found(evidence({"cat": 50, "dog": 50}, without=("test", "cat")))
    assert severity == WARNING
    assert message.startswith("cat has no picture in test, so the gate knows nothing of it: add pictures of it, or")


def test_near_copies_across_splits_are_told_or_refused_and_those_under_two_labels_told() -> None:
    pair = belonging.NearCopy("a.jpg", "train", "cat", "b.jpg", "test", "dog")
    together = belonging.Summary(9, 7, 1, (pair,), (pair,), path="report/near_copies.jsonl")
    given = dataclasses.replace(evidence({"cat": 50, "dog": 50}), together=together)
    across = (
        "7 pairs of pictures look like one photograph and are in different splits, which flatters what is measured: a.jpg"
        " (train) and b.jpg (test); …; all named in report/near_copies.jsonl; data.near_copies = same_split puts them on one"
        " side"
    )
    disputed = (
        "1 pair of pictures looks like one photograph and is under different labels: a.jpg (cat) and b.jpg (dog); all named"
        " in report/near_copies.jsonl"
    )
    assert found(given) == [(WARNING, across), (WARNING, disputed)]
    assert found(given, near_copies="refuse") == [(REFUSED, across), (WARNING, disputed)]
    within = dataclasses.replace(given, together=together._replace(across=0, disputed=0))
    assert found(within, near_copies="refuse") == []


def test_too_many_rejects_are_refused_and_the_first_ten_named() -> None:
    ((severity, message),) = found(evidence({"cat": 50, "dog": 50}, rejected=12))
    assert severity == REFUSED
    assert "data.max_rejected_fraction = 0.01" in message
    assert "report/rejects.jsonl" in message
    assert message.endswith(": 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg, 8.jpg, 9.jpg: is damaged; …")
    assert found(evidence({"cat": 50, "dog": 50}, rejected=12), max_rejected_fraction=0.1) == []


@pytest.mark.parametrize(("key", "named"), [("max_label_drift", {"label"}), ("max_size_drift", {"height", "width"})])
def test_drift_beyond_the_distance_is_refused(key: str, named: set[str]) -> None:
    counts, size = ({"cat": 10, "dog": 90}, 100) if key == "max_label_drift" else ({"cat": 50, "dog": 50}, 900)
    given, before = evidence(counts, size), baseline({"cat": 80, "dog": 20} if size == 100 else counts)
    refused = found(given, before)
    assert {message.split(" ")[0] for _, message in refused} == named
    assert all(f"data.{key}" in message for _, message in refused)
    assert found(given, before, **{key: None}) == []


def test_anomalies_are_told_a_line_each_and_a_new_label_can_be_allowed() -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="label", type=schema_pb2.BYTES).string_domain.value.append("cat")
    seen: anomalies_pb2.Anomalies = tfdv.validate_statistics(statistics({"cat": 5, "newt": 5}, 9), schema)
    given = dataclasses.replace(evidence({"cat": 5, "newt": 5}, known={"cat"}), anomalies={"train": seen})
    severities = {message.split(":")[0]: severity for severity, message in found(given)}
    assert severities["label never seen"] == REFUSED
    assert len(severities) > 1  # height and width are not in this schema
    allowed = [severity for severity, message in found(given, new_labels="allow") if message.startswith("label never seen")]
    assert allowed == [ALLOWED]


def test_a_label_that_was_accepted_once_is_not_asked_for_again_by_a_schema_that_lacks_it() -> None:
    schema = schema_pb2.Schema()
    schema.feature.add(name="label", type=schema_pb2.BYTES).string_domain.value.append("cat")
    for name in ("height", "width"):
        schema.feature.add(name=name, type=schema_pb2.INT)
    counts = {"cat": 50, "newt": 50, "owl": 50}
    seen: anomalies_pb2.Anomalies = tfdv.validate_statistics(statistics(counts, 100), schema)
    given = dataclasses.replace(evidence(counts, known={"cat"}), anomalies={"train": seen})
    severities = [severity for severity, _ in found(given, new_labels="allow")]
    assert severities == [ALLOWED, ALLOWED]
    assert found(given, baseline(counts)) == []
    refused = [message for severity, message in found(given, baseline({"cat": 50, "newt": 50}), max_label_drift=None)]
    assert refused == [
        "label never seen: owl (50 pictures in train) is not in the schema; data.new_labels = allow takes it",
        "label never seen: owl (150 pictures) is not in the data accepted last; data.new_labels = allow takes it",
    ]


def test_a_container_that_can_not_be_read_to_its_end_is_refused_however_few_files_it_counts_as() -> None:
    lost = rejects.Reject("cat", rejects.CONTAINER, "the folder can't be listed")
    given = evidence({"cat": 500, "dog": 500})
    summary = given.summary._replace(rejected=1, first=(lost,), codes={rejects.CONTAINER: 1}, containers=(lost,))
    given = dataclasses.replace(given, summary=summary)
    ((severity, message),) = found(given)
    assert severity == REFUSED
    assert "cat: the folder can't be listed" in message
    assert message.endswith("; data.unreadable = allow takes it")
    assert [severity for severity, _ in found(given, unreadable="allow")] == [ALLOWED]


@pytest.mark.parametrize(
    "other",
    [
        *("Cat", "cat\u200b", "c\u00ada t", "\uff43at", "CAT", "cat\ufe0f", "c\u034fat", "cat\u115f", "cat\u3164"),
        *("cat\u180b", "cat\U000e0100", "cat\u2800", "cat\uffa0", "cat\u17b4"),
    ],
)
def test_labels_that_look_alike_are_refused_by_name_unless_allowed(other: str) -> None:
    given = evidence({"cat": 50, other: 6, "dog": 50})
    ((severity, message),) = found(given)
    assert severity == REFUSED
    assert f"{other!a} (18 pictures)" in message
    assert "'cat' (150 pictures)" in message
    assert "data.similar_labels = allow" in message
    assert [severity for severity, _ in found(given, similar_labels="allow")] == [ALLOWED]
    assert found(evidence({"cat": 50, "cats": 50, "ca-t": 50})) == []


def test_a_class_folder_without_a_picture_is_a_warning() -> None:
    given = evidence({"cat": 50, "dog": 50})
    given = dataclasses.replace(given, summary=given.summary._replace(empty=("horse",)))
    assert found(given) == [(WARNING, "the class folder horse has no picture that can be used")]


def test_many_findings_of_one_kind_are_summed_up_and_few_are_not() -> None:
    counts = {f"person {number:03d}": 1 + number % 4 for number in range(200)}
    judged = findings.judge(LIMITS, evidence(counts), None)
    assert len(judged) == 200
    (one,) = findings.summed(judged)
    assert one.severity == REFUSED
    assert one.message == (
        "too few pictures: 200 labels have fewer in train than data.min_images_per_class = 5: person 000 (1),"
        " person 001 (2), person 002 (3), person 003 (4), person 004 (1) and 195 more"
    )
    assert findings.summed(judged[:5]) == judged[:5]


def test_a_class_with_fewer_pictures_than_folds_is_said_with_what_to_do() -> None:
    given = evidence({"cat": 50, "newt": 2, "owl": 3})
    ((severity, message),) = found(given, min_images_per_class=1, folds=6)
    assert severity == WARNING
    assert message == (
        "newt has 4, fewer pictures in train and eval than evaluation.folds = 6, so some folds have none of it: add pictures"
        " of it, or lower evaluation.folds"
    )
    assert found(given, min_images_per_class=1, folds=4) == []


def test_one_picture_is_not_two() -> None:
    pictures = {("train", "cat"): 50, ("eval", "cat"): 5, ("test", "cat"): 5, ("train", "newt"): 1}
    given = evidence({"cat": 50, "newt": 1})
    given = dataclasses.replace(given, summary=given.summary._replace(pictures=pictures))
    messages = [message for _, message in found(given, baseline({"cat": 50}), max_label_drift=None)]
    assert any(message.startswith("label never seen: newt (1 picture) is not in") for message in messages)
