"""Memory plans: what is in use at the same time does not overlap."""

from hypothesis import given, settings, strategies as st

from sw_driver.compiler.memory import Lifetime, Ring, peak_use, plan


@st.composite
def lifetimes(draw):
    items = []
    for key in range(draw(st.integers(1, 14))):
        start = draw(st.integers(0, 12))
        items.append(Lifetime(key, draw(st.integers(1, 40)), start, start + draw(st.integers(0, 6))))
    return items


@given(items=lifetimes(), slack=st.floats(1, 2))
@settings(max_examples=150, deadline=None)
def test_no_overlap(items, slack):
    peak, _alive = peak_use(items)
    capacity = int(peak * slack)
    addresses = plan(items, capacity)
    if addresses is None:
        assert slack < 1.8, "no plan although there is nearly twice the room needed"
        return
    for item in items:
        assert 0 <= addresses[item.key] <= capacity - item.size
        for other in items:
            if other is not item and item.meets(other):
                assert (addresses[item.key] + item.size <= addresses[other.key]
                        or addresses[other.key] + other.size <= addresses[item.key])


def test_too_large():
    assert plan([Lifetime("a", 5, 0, 1), Lifetime("b", 6, 1, 2)], 10) is None
    assert peak_use([Lifetime("a", 5, 0, 1), Lifetime("b", 6, 1, 2)])[0] == 11


def test_ring():
    ring = Ring(10)
    assert [ring.take(count) for count in (4, 5, 3, 0, 8)] == [0, 4, 9, 2, 2]
