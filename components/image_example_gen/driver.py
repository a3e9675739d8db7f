"""ImageExampleGen's driver: which spans are read, what is in them, and whether that is what was read before."""

from __future__ import annotations

import itertools
import json
from typing import Any

from tfx.components.example_gen import driver, utils
from tfx.orchestration import data_types
from tfx.orchestration.portable import data_types as portable_data_types
from tfx.proto import example_gen_pb2, range_config_pb2
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

from components.image_example_gen import executor, inventory, sources, spans


class Driver(driver.Driver):
    """Resolves the source to locations, lists every file there, and fingerprints the list: paths, sizes and times."""

    def run(self, execution_info: portable_data_types.ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Resolve the source for an execution, beside whose artifacts the list is kept."""
        (examples,) = execution_info.output_dict[standard_component_specs.EXAMPLES_KEY]
        self._examples = examples.uri
        return super().run(execution_info)

    def resolve_exec_properties(
        self,
        exec_properties: dict[str, Any],
        pipeline_info: data_types.PipelineInfo,
        component_info: data_types.ComponentInfo,
    ) -> dict[str, Any]:
        """Add the span, the version, the fingerprint, the locations, and how much there is in the source."""
        del pipeline_info, component_info
        return {**exec_properties, **resolve(exec_properties, self._examples)}


def resolve(exec_properties: dict[str, Any], examples: str) -> dict[str, Any]:
    """List the source and return what the executor needs to know of it, besides the list and what the component says.

    Args:
      exec_properties: of the component.
      examples: URI of the artifact that will be made from it; the list lies beside it.

    Raises:
      DataError: there is no such source, or no span in it.
    """
    config = example_gen_pb2.Input()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.INPUT_CONFIG_KEY], config)
    window = range_config_pb2.RangeConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.RANGE_CONFIG_KEY], window)
    base = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    locations = spans.resolve(base, config.splits[0].pattern, window.rolling_range.num_spans)
    settings = json.loads(exec_properties[executor.SETTINGS_KEY])
    listed = (sources.list_files(location, settings["group_name"]) for location in locations)
    survey = inventory.write(itertools.chain.from_iterable(listed), examples)
    return {
        utils.SPAN_PROPERTY_NAME: locations[-1].span,
        utils.VERSION_PROPERTY_NAME: locations[-1].version,
        utils.FINGERPRINT_PROPERTY_NAME: survey.fingerprint,
        executor.LOCATIONS_KEY: json.dumps(locations),
        executor.VOLUME_KEY: survey.bytes,
        executor.LISTED_KEY: survey.pictures,
    }
