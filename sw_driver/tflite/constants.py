"""Changing constants within a TFLite file: everything else in it stays as it is, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sw_driver.graph import Graph, ModelError


def replace_constants(data: bytes, graph: Graph, arrays: Mapping[int, np.ndarray]) -> bytes:
    """The file with other values for some of its constants.

    Parameters
    ----------
    data : a TFLite file. graph : `load_graph(data)`, of this very object: its constants are views of it.
    arrays : by tensor index, of the tensor's shape and type.

    Raises ModelError where a constant's bytes are those of another tensor, too, that would have other values: files
    may store equal constants once. ValueError for a tensor that is no constant of `data`, or has another shape or type.
    """
    changed = bytearray(data)
    spans = {tensor.index: _span(data, tensor.data) for tensor in graph.tensors
             if tensor.data is not None and tensor.data.size}
    for index, array in arrays.items():
        tensor = graph.tensors[index]
        if index not in spans:
            raise ValueError(f"{tensor} is not a constant of this file")
        if array.shape != tensor.shape or array.dtype.name != tensor.dtype:
            raise ValueError(f"{tensor} can't become {array.dtype} {array.shape}")
        first, end = spans[index]
        for other, (other_first, other_end) in spans.items():
            shared = other != index and other_first < end and first < other_end
            if shared and (other not in arrays or arrays[other].tobytes() != array.tobytes()):
                raise ModelError(f"{tensor} shares its bytes in the file with {graph.tensors[other]}, and can't be "
                                 "changed alone; write the model with a buffer for each tensor")
        changed[first:end] = array.tobytes()
    return bytes(changed)


def _span(data: bytes, array: np.ndarray) -> tuple[int, int]:
    """Where in `data` the bytes of a view of it lie: first, end."""
    first = array.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    end = first + array.nbytes
    if first < 0 or end > len(data):
        raise ValueError("The graph was not read from these bytes")
    return first, end
