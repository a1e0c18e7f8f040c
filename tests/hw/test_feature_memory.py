"""The feature memory against a plain one: every reader and writer at once, at random, and alone at full speed."""

from __future__ import annotations

import os
from collections import deque

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.contract.config import Config, preset
from hw.feature_memory import FeatureMemory
from hw.ports import READ_LATENCY

SEED = int(os.environ.get("LACUNA_SEED", "1"))
TAG_BITS = 7
WORD_READERS, LATE_READERS, WRITERS = ("skip", "store"), ("a", "b"), ("results", "load", "vector")
TWO_BANKS = Config("two banks", rows=2, lanes=8, pixels_per_row=2, requantise_lanes=2, depthwise_lanes=2,
                   fetch_ports=2,
                   feature_bytes=4096, feature_banks=2, weight_bytes=4096, weight_maps=64, parameter_channels=64,
                   mask_words=16)
CONFIGS = {"nano": preset("nano"), "small": preset("small"), "large": preset("large"), "two banks": TWO_BANKS}


class Reference:
    """Plays all readers and writers of a memory, and knows what each read must give."""

    def __init__(self, config: Config, seed: int, chances: dict[str, float], words: int | None = None):
        self.config = config
        self.random = np.random.default_rng(seed)
        self.fetches = tuple(f"fetch_{i}" for i in range(config.fetch_ports))
        self.readers = (*WORD_READERS, *self.fetches, *LATE_READERS)
        self.dut = FeatureMemory(config, word_readers=WORD_READERS, byte_readers=dict.fromkeys(self.fetches, TAG_BITS),
                                 late_word_readers=LATE_READERS, writers=WRITERS)
        self.chances = chances
        self.words = config.feature_words if words is None else words
        self.content = np.zeros((config.feature_words, config.lanes), np.uint8)
        self.offers: dict[str, tuple | None] = dict.fromkeys((*self.readers, *WRITERS))
        self.expected: dict[str, deque] = {name: deque() for name in self.readers}
        self.accepted = dict.fromkeys(self.offers, 0)
        self.delayed = dict.fromkeys(self.offers, 0)
        self.latencies: dict[str, list[int]] = {name: [] for name in self.readers}

    def _offer(self, ctx, name: str) -> None:
        """Something new, where nothing waits."""
        port = getattr(self.dut, name)
        if self.offers[name] is None and self.random.random() < self.chances.get(name, 0.0):
            word = int(self.random.integers(self.words))
            if name in WRITERS:
                content = self.random.integers(0, 256, self.config.lanes, np.uint8)
                self.offers[name] = word, content
                ctx.set(port.request.payload.address, word)
                ctx.set(port.request.payload.data, int.from_bytes(content.tobytes(), "little"))
            elif name in self.fetches:
                lanes = self.config.lanes
                byte = word * lanes + int(self.random.choice([0, self.random.integers(lanes)]))
                read, tag = int(self.random.random() < 0.8), int(self.random.integers(1 << TAG_BITS))
                self.offers[name] = byte, read, tag
                for member, value in (("address", byte), ("read", read), ("tag", tag)):
                    ctx.set(port.request.payload[member], value)
            else:
                self.offers[name] = (word,)
                ctx.set(port.request.payload, word)
        ctx.set(port.request.valid, self.offers[name] is not None)

    def _answer(self, offer: tuple) -> tuple[bytes | None, int]:
        """Data, if any, and tag of a read that is accepted now."""
        if len(offer) == 1:
            return self.content[offer[0]].tobytes(), 0
        byte, read, tag = offer
        flat, lanes = self.content.reshape(-1), self.config.lanes
        return (flat[np.arange(byte, byte + lanes) % flat.size].tobytes() if read else None), tag

    async def run(self, ctx, cycles: int) -> None:
        """Play for `cycles`, then until every read is answered."""
        writes: list[tuple[int, np.ndarray]] = []
        for cycle in range(cycles + 200):
            for name in self.offers:
                if cycle == cycles:
                    self.chances = {}
                self._offer(ctx, name)
            for name in self.offers:
                port, offer = getattr(self.dut, name), self.offers[name]
                if offer is not None and ctx.get(port.request.ready):
                    self.accepted[name] += 1
                    self.offers[name] = None
                    if name in WRITERS:
                        writes.append(offer)
                    else:
                        # A write of this very cycle or of a later one may be seen or not: both are remembered.
                        self.expected[name].append([cycle, offer, {self._answer(offer)}])
                elif offer is not None:
                    self.delayed[name] += 1
            for word, content in writes:
                self.content[word] = content
            if writes:
                for name in self.readers:
                    for _cycle, offer, answers in self.expected[name]:
                        answers.add(self._answer(offer))
            writes.clear()
            await ctx.tick()
            for name in self.readers:
                port = getattr(self.dut, name)
                if ctx.get(port.data_valid):
                    accepted, _offer, answers = self.expected[name].popleft()
                    self.latencies[name].append(cycle + 1 - accepted)
                    tag = ctx.get(port.tag) if name in self.fetches else 0
                    data = ctx.get(port.data).to_bytes(self.config.lanes, "little")
                    assert any(tag == right_tag and right_data in (None, data) for right_data, right_tag in answers), (
                        f"{name}, cycle {cycle}: {data.hex()}, tag {tag}, instead of {answers}")
        assert not any(self.expected.values())

    def simulate(self, cycles: int) -> None:
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)

        async def testbench(ctx):
            await self.run(ctx, cycles)

        simulator.add_testbench(testbench)
        simulator.run()


@pytest.mark.parametrize("name", CONFIGS)
def test_reads_and_writes_at_random(name: str) -> None:
    """Every read gives what was last written before it was accepted, in order, with its tag."""
    print(f"LACUNA_SEED={SEED}")
    config = CONFIGS[name]
    for part, words in enumerate((None, 40)):
        random = np.random.default_rng([SEED, part])
        chances = {port: float(random.choice([0.1, 0.5, 0.9])) for port in
                   (*WORD_READERS, "fetch_0", "fetch_1", *LATE_READERS, *WRITERS)}
        bench = Reference(config, SEED + part, chances, words)
        bench.simulate(1500)
        assert bench.delayed["skip"] == bench.delayed["results"] == 0
        assert set(bench.latencies["skip"]) == {READ_LATENCY}


def test_a_reader_alone_gets_a_word_per_cycle() -> None:
    for name, latency in (("skip", READ_LATENCY), ("store", READ_LATENCY), ("fetch_0", READ_LATENCY + 1),
                          ("a", READ_LATENCY)):
        bench = Reference(preset("small"), SEED, {name: 1.0})
        bench.simulate(300)
        assert bench.accepted[name] == 300
        assert set(bench.latencies[name]) == {latency}


@pytest.mark.parametrize("pair", [("fetch_0", "a"), ("a", "b"), ("store", "fetch_0")])
def test_two_readers_disturb_each_other_only_at_a_bank(pair: tuple[str, str]) -> None:
    """Of four banks, two readers of words want the same one in a quarter of the cycles; then the second waits."""
    bench = Reference(preset("large"), SEED, dict.fromkeys(pair, 1.0))
    bench.simulate(600)
    assert bench.accepted[pair[0]] == 600
    assert bench.accepted[pair[1]] > 350


def test_a_write_is_seen_by_a_read_accepted_in_the_next_cycle() -> None:
    config = preset("small")
    dut = FeatureMemory(config, word_readers=["store"], byte_readers={}, late_word_readers=["a"], writers=["load"])

    async def testbench(ctx):
        for gap in (1, 2, 3):
            for reader in (dut.store, dut.a):
                ctx.set(dut.load.request.payload.address, 77)
                ctx.set(dut.load.request.payload.data, 1234 + gap)
                ctx.set(dut.load.request.valid, 1)
                await ctx.tick()
                ctx.set(dut.load.request.valid, 0)
                for _ in range(gap - 1):
                    await ctx.tick()
                ctx.set(reader.request.payload, 77)
                ctx.set(reader.request.valid, 1)
                await ctx.tick()
                ctx.set(reader.request.valid, 0)
                await ctx.tick().until(reader.data_valid)
                # `until` has sampled data_valid at the edge at which the data was there.
                for _ in range(8):
                    await ctx.tick()
                ctx.set(dut.load.request.payload.data, 0)

    async def check(ctx):
        seen = []
        while len(seen) < 6:
            _clk, _rst, first, second, a, b = await ctx.tick().sample(
                dut.store.data_valid, dut.a.data_valid, dut.store.data, dut.a.data)
            if first or second:
                seen.append(a if first else b)
        assert seen == [1235, 1235, 1236, 1236, 1237, 1237]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.add_testbench(check)
    simulator.run()
