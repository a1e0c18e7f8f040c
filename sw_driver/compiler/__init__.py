"""The compiler: a TFLite graph becomes a program image."""

from sw_driver.compiler.errors import CapacityError, CompileError
from sw_driver.compiler.program import compile_graph, compile_model

__all__ = ["CapacityError", "CompileError", "compile_graph", "compile_model"]
