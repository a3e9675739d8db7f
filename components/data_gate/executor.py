"""DataGate's executor: reads what is known of the data, and ends the run if it speaks against them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx import types
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from components.data_gate import findings
from components.image_example_gen import belonging, rejects
from modules import features

REJECTS_KEY, BASELINE_KEY, VERDICT_KEY = "rejects", "baseline", "verdict"
LIMITS_KEY, ENFORCE_KEY = "limits", "enforce"
ACCEPTED_PROPERTY, ALLOWED_PROPERTY, STATISTICS_PROPERTY = "accepted", "allowed_findings", "statistics_id"

FINDINGS_FILE = "findings.jsonl"
_LABELS_FILE = "labels.json"
_STATISTICS_FILE = "statistics.pb"
_ANOMALIES_FILE = "SchemaDiff.pb"
_MOST_REASONS = 3
"""In the error, which is read where the log is not at hand."""
_log = logging.getLogger("finetune.components.data_gate")


class RefusedDataError(ValueError):
    """Data that the gate refuses, and why; all that was found is in the log, a line each.

    Args:
      message: in a line.
      found: all that speaks against them.
    """

    def __init__(self, message: str, found: Sequence[findings.Finding] = ()):
        super().__init__(message)
        self.found = tuple(found)


class Executor(base_executor.BaseExecutor):
    """Judges data, says what it found, and keeps what the next data are compared with."""

    def Do(  # noqa: N802 TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Judge the data.

        Args:
          input_dict: `statistics`, `schema`, `anomalies`, `rejects`, and `baseline` if data were accepted before.
          output_dict: `verdict`.
          exec_properties: `limits`, the JSON of `findings.Limits`; `enforce`, whether refused data end the run.

        Raises:
          RefusedDataError: the data are refused, and `enforce` is set.
        """
        statistics = artifact_utils.get_single_instance(input_dict[standard_component_specs.STATISTICS_KEY])
        report = artifact_utils.get_single_uri(input_dict[REJECTS_KEY])
        evidence = findings.Evidence(
            rejects.read_summary(report),
            _train_statistics(statistics),
            _schema_labels(artifact_utils.get_single_uri(input_dict[standard_component_specs.SCHEMA_KEY])),
            _anomalies(artifact_utils.get_single_instance(input_dict[standard_component_specs.ANOMALIES_KEY])),
            belonging.read_summary(report),
        )
        last = input_dict.get(BASELINE_KEY) or []
        limits = findings.Limits(**json.loads(exec_properties[LIMITS_KEY]))
        found = findings.judge(limits, evidence, _read_baseline(last[0].uri) if last else None)
        refused = [finding for finding in found if finding.severity == findings.REFUSED]
        if exec_properties[ENFORCE_KEY]:
            together = findings.summed(found)
            for finding in together:
                _tell(finding)
            if len(together) < len(found):
                for finding in found:
                    _tell(finding, details=True)
                _log.warning("each of them is in the log")
            if refused:
                refused = findings.summed(refused)
                reasons = "; ".join(finding.message for finding in refused[:_MOST_REASONS])
                more = f"; and {len(refused) - _MOST_REASONS} more, in the log" if len(refused) > _MOST_REASONS else ""
                raise RefusedDataError(f"the data are refused, nothing was trained: {reasons}{more}", found)
        verdict = artifact_utils.get_single_instance(output_dict[VERDICT_KEY])
        _write(verdict.uri, found, evidence)
        verdict.set_int_custom_property(ACCEPTED_PROPERTY, int(bool(exec_properties[ENFORCE_KEY])))
        verdict.set_int_custom_property(ALLOWED_PROPERTY, sum(finding.severity == findings.ALLOWED for finding in found))
        verdict.set_int_custom_property(STATISTICS_PROPERTY, statistics.id)


def read_findings(folder: str) -> list[findings.Finding]:
    """Read the findings of a `verdict` artifact.

    Args:
      folder: its URI.
    """
    with fileio.open(os.path.join(folder, FINDINGS_FILE), "r") as opened:
        return [findings.Finding(**json.loads(line)) for line in opened]


def _tell(finding: findings.Finding, details: bool = False) -> None:
    """Log a finding; with `details`, where nobody watches."""
    level = logging.ERROR if finding.severity == findings.REFUSED else logging.WARNING
    note = "allowed: " if finding.severity == findings.ALLOWED else ""
    _log.log(level, "%s%s", note, finding.message, extra={"details": details})


def _train_statistics(artifact: types.Artifact) -> statistics_pb2.DatasetFeatureStatisticsList:
    return stats_artifact_utils.load_statistics(artifact, features.TRAIN).proto()


def _schema_labels(folder: str) -> frozenset[str]:
    schema = io_utils.parse_pbtxt_file(os.path.join(folder, "schema.pbtxt"), schema_pb2.Schema())
    (label,) = [feature for feature in schema.feature if feature.name == features.LABEL]
    named = {domain.name: domain for domain in schema.string_domain}
    return frozenset((named[label.domain] if label.HasField("domain") else label.string_domain).value)


def _anomalies(artifact: types.Artifact) -> dict[str, anomalies_pb2.Anomalies]:
    found = {}
    for split in artifact_utils.decode_split_names(artifact.split_names):
        path = os.path.join(artifact_utils.get_split_uri([artifact], split), _ANOMALIES_FILE)
        found[split] = anomalies_pb2.Anomalies.FromString(io_utils.read_bytes_file(path))
    return found


def _read_baseline(folder: str) -> findings.Baseline:
    labels = json.loads(io_utils.read_string_file(os.path.join(folder, _LABELS_FILE)))
    return findings.Baseline(frozenset(labels), tfdv.load_stats_binary(os.path.join(folder, _STATISTICS_FILE)))


def _write(folder: str, found: list[findings.Finding], evidence: findings.Evidence) -> None:
    lines = "".join(json.dumps(finding._asdict(), ensure_ascii=False) + "\n" for finding in found)
    io_utils.write_string_file(os.path.join(folder, FINDINGS_FILE), lines)
    labels = sorted(evidence.summary.labels)
    io_utils.write_string_file(os.path.join(folder, _LABELS_FILE), json.dumps(labels, ensure_ascii=False))
    io_utils.write_bytes_file(os.path.join(folder, _STATISTICS_FILE), evidence.statistics.SerializeToString())
