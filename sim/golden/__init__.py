"""The golden model: executes a program image in NumPy, exact in every memory after every command."""

from sim.golden.hazards import HazardError, check_hazards
from sim.golden.memory import External
from sim.golden.model import Executed, Golden, Run

__all__ = ["Executed", "External", "Golden", "HazardError", "Run", "check_hazards"]
