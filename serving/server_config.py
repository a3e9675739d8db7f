"""`models.config`: what TensorFlow Serving reads again every so often, and loads what it names."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf import text_format

from serving import protocol_pb2

FILE = "models.config"


class ServerConfig(NamedTuple):
    """The name of a model at the server, the folder of its versions as the server sees it, and the version that is live."""

    name: str
    base_path: str
    version: int

    def to_text(self) -> str:
        """Return the content of the file."""
        config = protocol_pb2.ModelServerConfig()
        one = config.model_config_list.config.add(name=self.name, base_path=self.base_path, model_platform="tensorflow")
        one.model_version_policy.specific.versions.append(self.version)
        return text_format.MessageToString(config)


def parse(text: str) -> ServerConfig:
    """Return what a file of this project says.

    Args:
      text: its content.

    Raises:
      ValueError: somebody else wrote it.
    """
    try:
        (one,) = text_format.Parse(text, protocol_pb2.ModelServerConfig()).model_config_list.config
        (version,) = one.model_version_policy.specific.versions
    except (text_format.ParseError, ValueError) as error:
        raise ValueError(f"{FILE} does not name one version of one model: {error}") from None
    return ServerConfig(one.name, one.base_path, version)
