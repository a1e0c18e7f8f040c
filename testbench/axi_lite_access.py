"""Register accesses over AXI4-Lite in Amaranth's simulator."""

from __future__ import annotations


async def read(ctx, bus, address: int, pause: int = 0) -> tuple[int, int]:
    """Read a register: (value, response). The answer is taken `pause` cycles late."""
    ctx.set(bus.araddr, address)
    ctx.set(bus.arvalid, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)
    for _ in range(pause):
        await ctx.tick()
    ctx.set(bus.rready, 1)
    value, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
    ctx.set(bus.rready, 0)
    return value, response


async def write(ctx, bus, address: int, value: int, strobe: int = 0xF, order: str = "both", pause: int = 0) -> int:
    """Write a register: the response. `order` is "address", "data" (which goes first) or "both"."""
    for part in {"address": ("aw", "w"), "data": ("w", "aw"), "both": (("aw", "w"),)}[order]:
        parts = [part] if isinstance(part, str) else list(part)
        if "aw" in parts:
            ctx.set(bus.awaddr, address)
            ctx.set(bus.awvalid, 1)
        if "w" in parts:
            ctx.set(bus.wdata, value)
            ctx.set(bus.wstrb, strobe)
            ctx.set(bus.wvalid, 1)
        while ctx.get(bus.awvalid) or ctx.get(bus.wvalid):
            _clk, _rst, taken, data_taken = await ctx.tick().sample(
                bus.awvalid & bus.awready, bus.wvalid & bus.wready)
            if taken:
                ctx.set(bus.awvalid, 0)
            if data_taken:
                ctx.set(bus.wvalid, 0)
        for _ in range(pause):
            await ctx.tick()
    ctx.set(bus.bready, 1)
    (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
    ctx.set(bus.bready, 0)
    return response
