"""ImageExampleGen's driver: which spans are read, and whether they are what was read before."""

from __future__ import annotations

import json
from typing import Any

from tfx.components.example_gen import driver, utils
from tfx.orchestration import data_types
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

from components.image_example_gen import executor, sources, spans


class Driver(driver.Driver):
    """Resolves the source to locations and fingerprints every file there, by path, size and modification time."""

    def resolve_exec_properties(
        self,
        exec_properties: dict[str, Any],
        pipeline_info: data_types.PipelineInfo,
        component_info: data_types.ComponentInfo,
    ) -> dict[str, Any]:
        """Add the span, the version, the fingerprint, the locations and the volume in bytes of the source."""
        del pipeline_info, component_info
        return {**exec_properties, **resolve(exec_properties)}


def resolve(exec_properties: dict[str, Any]) -> dict[str, Any]:
    """Return what the executor needs to know of the source, besides what the component says.

    Args:
      exec_properties: of the component.

    Raises:
      DataError: there is no such source, or no span in it.
    """
    config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
    window = range_config_pb2.RangeConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.RANGE_CONFIG_KEY], window)
    base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    locations = spans.resolve(base, config.splits[0].pattern, window.rolling_range.num_spans)
    survey = sources.survey(locations)
    return {
        utils.SPAN_PROPERTY_NAME: locations[-1].span,
        utils.VERSION_PROPERTY_NAME: locations[-1].version,
        utils.FINGERPRINT_PROPERTY_NAME: survey.fingerprint,
        executor.LOCATIONS_KEY: json.dumps(locations),
        executor.VOLUME_KEY: survey.bytes,
    }
