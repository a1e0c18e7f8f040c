"""Which errors are the user's to know: their message is complete, a traceback would add nothing."""

from __future__ import annotations

from hw.contract.commands import CommandError
from hw.contract.config import ConfigError
from hw.contract.image import ImageError


class Failure(Exception):
    """A command that can't be carried out; the message says why and what to do."""


def is_expected(error: Exception) -> bool:
    """Whether an exception is one of those by which Lacuna's parts refuse bad input or report a broken device."""
    from sim.simulator import SimulatorError
    from sim.tokens import ProgramError
    from sw_driver import device, inputs
    from sw_driver.c.export import ExportError
    from sw_driver.compiler import CompileError
    from sw_driver.graph import ModelError
    from sw_driver.links.link import LinkError
    from sw_driver.oracle import OracleError

    return isinstance(error, (
        Failure, CommandError, CompileError, ConfigError, ExportError, ImageError, LinkError, ModelError, OracleError,
        ProgramError, SimulatorError, device.DeviceError, device.InputError, inputs.InputError))
