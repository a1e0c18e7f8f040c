"""Runs a component in Amaranth's simulator until its test processes have ended."""

from __future__ import annotations

from amaranth.sim import Simulator


def simulate(dut, *processes, background=(), cycles: int = 40_000) -> None:
    """Simulate `dut` until all `processes` (async functions of a simulator context) have returned.

    `background` processes go on as long as that. Raises AssertionError after `cycles` clock cycles.
    """
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    for process in processes:
        simulator.add_testbench(process)
    for process in background:
        simulator.add_testbench(process, background=True)

    async def limit(ctx):
        for _ in range(cycles):
            await ctx.tick()
        raise AssertionError(f"the simulation has not come to its end after {cycles} cycles")

    simulator.add_testbench(limit, background=True)
    simulator.run()
