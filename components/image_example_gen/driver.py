"""ImageExampleGen's driver: TFX's own for files, with a fingerprint that sees every file below the source."""

from __future__ import annotations

from collections.abc import Iterable

from tfx.components.example_gen import driver, input_processor
from tfx.proto import example_gen_pb2, range_config_pb2

from components.image_example_gen import sources


class ImageInputProcessor(input_processor.FileBasedInputProcessor):
    """Tells one state of a source folder from another by paths, sizes and modification times."""

    def get_input_fingerprint(self, span: int, version: int | None) -> str:
        """Return the fingerprint of the source folder."""
        del span, version
        return sources.fingerprint(self._input_base_uri)


class Driver(driver.FileBasedDriver):
    """Decides whether examples made before can be used again."""

    def get_input_processor(
        self,
        splits: Iterable[example_gen_pb2.Input.Split],
        range_config: range_config_pb2.RangeConfig | None = None,
        input_base_uri: str | None = None,
    ) -> ImageInputProcessor:
        """Return the processor of a source folder."""
        return ImageInputProcessor(input_base_uri, splits, range_config)
