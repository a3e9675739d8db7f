"""Tensors as TensorFlow Serving sends and takes them by gRPC, without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from serving import protocol_pb2

_FLOAT, _STRING = 1, 7  # tensorflow/core/framework/types.proto


def of_strings(values: Sequence[bytes]) -> protocol_pb2.Tensor:
    """Return a tensor of strings, `[batch]`."""
    shape = protocol_pb2.TensorShape(dim=[protocol_pb2.TensorShape.Dim(size=len(values))])
    return protocol_pb2.Tensor(dtype=_STRING, tensor_shape=shape, string_val=values)


def to_array(tensor: protocol_pb2.Tensor) -> np.ndarray:
    """Return the values of a tensor of float32 or of strings, in its shape.

    Raises:
      ValueError: it holds something else, or not as much as its shape says.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == _FLOAT and tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    if tensor.dtype == _FLOAT:
        found = np.array(tensor.float_val, np.float32)
    elif tensor.dtype == _STRING:
        found = np.array(list(tensor.string_val), object)
    else:
        raise ValueError(f"a tensor of type {tensor.dtype}; expected float32, {_FLOAT}, or strings, {_STRING}")
    # The last value stands for all that follow.
    missing = math.prod(shape) - len(found)
    if len(found) and missing > 0:
        found = np.concatenate([found, np.repeat(found[-1:], missing)])
    return found.reshape(shape)
