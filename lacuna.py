"""Lacuna: run int8 TFLite networks on a neural processor that spends no cycle on a zero.

    import lacuna
    program = lacuna.compile("model.tflite", preset="large")
    with lacuna.open("rtl", preset="large") as device:
        result = device.run(program, {"input": x})
"""

from hw.contract.config import PRESETS, Config
from hw.contract.image import Program
from sw_driver.compiler import CompileError, compile_model as compile
from sw_driver.device import Device, DeviceError, DeviceTimeout, InputError
from sw_driver.opening import open_device as open
from sw_driver.result import LayerResult, RunResult

__all__ = [
    "PRESETS", "CompileError", "Config", "Device", "DeviceError", "DeviceTimeout", "InputError", "LayerResult",
    "Program", "RunResult", "compile", "open",
]
