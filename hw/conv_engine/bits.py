"""Sets of bits: how many there are, the lowest, which lie below it."""

from __future__ import annotations

from amaranth import Cat, Module, Signal


def count_ones(m: Module, bits, name: str) -> Signal:
    """A named count of the ones of `bits`: four at a time straight from a lookup table, then a tree of adders."""
    level = []
    for at in range(0, len(bits), 4):
        group = bits[at : at + 4]
        pairs = [group[i : i + 2] for i in range(0, len(group), 2)]
        odd, both = [pair.xor() for pair in pairs], [pair.all() if len(pair) == 2 else 0 for pair in pairs]
        count = Signal(range(len(group) + 1), name=f"{name}_{at}")
        if len(pairs) == 1:
            m.d.comb += count.eq(Cat(odd[0], both[0]))
        else:
            twos = Cat(both[0], both[1], odd[0] & odd[1])
            m.d.comb += count.eq(Cat(odd[0] ^ odd[1], twos.xor(), both[0] & both[1]))
        level.append(count)
    while len(level) > 1:
        sums = []
        for i in range(0, len(level) - 1, 2):
            total = Signal(len(level[i]) + 1, name=f"{name}_{len(level)}_{i}")
            m.d.comb += total.eq(level[i] + level[i + 1])
            sums.append(total)
        level = sums + level[len(level) & ~1 :]
    total = Signal(range(len(bits) + 1), name=name)
    m.d.comb += total.eq(level[0])
    return total


def up_to(m: Module, bits, name: str) -> Signal:
    """Bit i: whether any of bits 0 to i is set."""
    for distance in (1 << i for i in range((len(bits) - 1).bit_length())):
        wider = Signal(len(bits), name=f"{name}_{distance}")
        m.d.comb += wider.eq(bits | (bits << distance))
        bits = wider
    return bits


def two_or_more(m: Module, bits, name: str):
    """Whether at least two of `bits` are set."""
    groups = [bits[at : at + 4] for at in range(0, len(bits), 4)]
    some, many = Signal(len(groups), name=f"{name}_some"), Signal(len(groups), name=f"{name}_many")
    m.d.comb += [
        some.eq(Cat(group.any() for group in groups)),
        many.eq(Cat(Cat(group[i] & group[:i].any() for i in range(1, len(group))).any() for group in groups)),
    ]
    return many.any() | Cat(some[i] & some[:i].any() for i in range(1, len(groups))).any()


def encode(m: Module, chosen, name: str) -> Signal:
    """The number of the one bit that is set in `chosen`."""
    index = Signal(max(1, (len(chosen) - 1).bit_length()), name=name)
    m.d.comb += index.eq(Cat(
        (chosen & sum(1 << i for i in range(len(chosen)) if i >> bit & 1)).any() for bit in range(len(index))))
    return index
