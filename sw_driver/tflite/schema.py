"""The TFLite schema's generated classes (object API), as tflite-micro ships them.

The one place that names their module. `load_schema()` is called where a file is read or written, so that
importing this package does not need tflite-micro.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

_MODULE = "tflite_micro.tensorflow.lite.micro.python.schema_py_generated"

#: Identifier of a TFLite file, at byte 4.
FILE_IDENTIFIER = b"TFL3"

#: Version of the schema that the file says it follows.
SCHEMA_VERSION = 3

#: Fused activations by the schema's number (enum ActivationFunctionType).
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")

#: Paddings by the schema's number (enum Padding).
PADDINGS = ("SAME", "VALID")


@functools.cache
def load_schema() -> ModuleType:
    """The schema module. Raises ImportError with the package to install where it is missing."""
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        raise ImportError(f"Reading TFLite files needs the package tflite-micro ({error}); "
                          "install the project with its pinned dependencies") from error


@functools.cache
def enum_names(enum: str) -> dict[int, str]:
    """Number to name for an enumeration of the schema, such as 'TensorType' or 'BuiltinOperator'."""
    members = vars(getattr(load_schema(), enum))
    return {value: name for name, value in members.items() if not name.startswith("_") and isinstance(value, int)}


@functools.cache
def enum_values(enum: str) -> dict[str, int]:
    """Name to number for an enumeration of the schema."""
    return {name: value for value, name in enum_names(enum).items()}
