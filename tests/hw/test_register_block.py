"""Every register of the table: reset value, writing, strobes, what must not work, the order of the channels."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from amaranth.lib import data

from hw.bus.axi import Response
from hw.contract.config import FORMAT_VERSION, preset
from hw.contract.registers import ADDRESS_BYTES, ID, REGISTERS, Access, Control
from hw.register_block import RegisterBlock
from testbench.axi_lite_access import read, write
from testbench.component_simulation import simulate

SEED = int(os.environ.get("LACUNA_SEED", "1"))
CONFIG = preset("small")
MULTIPLES_OF_8 = ("PROGRAM", *(f"WINDOW{i}_{name}" for i in range(4) for name in ("BASE", "SIZE")))


def writable_bits(name, address_bits=32):
    if name in MULTIPLES_OF_8:
        return 0xFFFF_FFF8
    if name.endswith("HIGH"):
        return (1 << (address_bits - 32)) - 1
    return {"INTERRUPT_ENABLE": 1, "WATCHDOG": 0xFFFF_FFFF}.get(name, 3)


@pytest.mark.parametrize("address_bits", [32, 40])
def test_every_register(address_bits):
    """Reset values, then random writes with random strobes, order and pauses, against a plain model."""
    print(f"LACUNA_SEED={SEED}")
    config = dataclasses.replace(CONFIG, axi_address_bits=address_bits)
    dut = RegisterBlock(config)
    random = np.random.default_rng(SEED)
    status = {"status": 0b1011, "error_code": 7, "error_command": 0x1234_5678, "error_address": 0x8765_4321,
              "cycles": 0xDEAD_BEEF, "completed": 3, "dispatched": 4}
    fixed = {"ID": ID, "FORMAT": FORMAT_VERSION, "CONFIG": config.hash, "LOAD_COMMAND": 10, "STORE_COMMAND": 11,
             "CONV_COMMAND": 12, "VECTOR_COMMAND": 13, **{name.upper(): value for name, value in status.items()}}
    model = {name: register.reset for name, register in REGISTERS.items() if register.access is Access.READ_WRITE}

    async def test(ctx):
        for name, value in status.items():
            member = getattr(dut.control, name)
            ctx.set(member.as_value() if isinstance(member, data.View) else member, value)
        for i in range(4):
            ctx.set(dut.control.running[i], 10 + i)
        for turn in range(3):
            for address in range(0, ADDRESS_BYTES, 4):
                name = next((n for n, r in REGISTERS.items() if r.address == address), None)
                readable = name is not None and REGISTERS[name].access is not Access.WRITE
                expected = (fixed | model)[name] if readable else 0
                response = Response.OKAY if readable else Response.SLVERR
                assert await read(ctx, dut.bus, address, int(random.integers(3))) == (expected, response), name
                if turn == 2 or (turn == 0 and name is None):
                    continue
                value, strobe = int(random.integers(1 << 32)), int(random.integers(16))
                response = await write(ctx, dut.bus, address, value, strobe,
                                       str(random.choice(["address", "data", "both"])), int(random.integers(3)))
                writable = name is not None and REGISTERS[name].access is not Access.READ
                assert response == (Response.OKAY if writable else Response.SLVERR), name
                if name in model:
                    mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1) & writable_bits(name, address_bits)
                    model[name] = (model[name] & ~mask) | (value & mask)
        assert ctx.get(dut.control.program) == model["PROGRAM"]
        assert ctx.get(dut.control.watchdog) == model["WATCHDOG"]
        for i in range(4):
            window = dut.windows[i]
            assert ctx.get(window.base) == model[f"WINDOW{i}_BASE"] | model[f"WINDOW{i}_BASE_HIGH"] << 32
            assert ctx.get(window.size) == model[f"WINDOW{i}_SIZE"]
            assert ctx.get(window.read) | ctx.get(window.write) << 1 == model[f"WINDOW{i}_PERMISSION"]

    simulate(dut, test)


def test_control_acts_once():
    """A write of CONTROL pulses its bits for one cycle; without byte 0 it does nothing."""
    dut = RegisterBlock(CONFIG)
    pulses = []

    async def watch(ctx):
        async for _clk, _rst, start, reset, acknowledge in ctx.tick().sample(
                dut.control.start, dut.control.soft_reset, dut.control.acknowledge):
            if start or reset or acknowledge:
                pulses.append(start * Control.START | reset * Control.SOFT_RESET | acknowledge * Control.ACKNOWLEDGE)

    async def test(ctx):
        address = REGISTERS["CONTROL"].address
        assert await write(ctx, dut.bus, address, 0xFFFF_FFFF, 0xE) == Response.OKAY
        for value in range(8):
            assert await write(ctx, dut.bus, address, value, pause=2) == Response.OKAY
        assert await write(ctx, dut.bus, REGISTERS["PROGRAM"].address, 7) == Response.OKAY
        await ctx.tick().repeat(3)

    simulate(dut, test, background=[watch])
    assert pulses == list(range(1, 8))


def test_interrupt_line():
    dut = RegisterBlock(CONFIG)

    async def test(ctx):
        ctx.set(dut.control.status.interrupt, 1)
        assert not ctx.get(dut.irq)
        await write(ctx, dut.bus, REGISTERS["INTERRUPT_ENABLE"].address, 1)
        assert ctx.get(dut.irq)
        ctx.set(dut.control.status.interrupt, 0)
        assert not ctx.get(dut.irq)

    simulate(dut, test)
