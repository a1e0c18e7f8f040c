"""What the compiler raises."""

from __future__ import annotations


class CompileError(ValueError):
    """A model that can't be compiled for a configuration; the message names what, its size, the limit, the remedy."""


class CapacityError(CompileError):
    """Something that a larger configuration would have room for."""
