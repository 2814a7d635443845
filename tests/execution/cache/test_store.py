"""Results in memory: what is kept, for how long, within which bounds."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import pytest

from kernelagent.execution.cache.store import ENTRY_OVERHEAD, Rendered, ResultStore
from kernelagent.execution.rendering import answer
from tests.execution.results import display, result, stream

MIB = 2**20


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def store_of(clock: Clock, **bounds: int) -> ResultStore:
    return ResultStore(**{"max_bytes": MIB, "max_entries": 100, **bounds}, clock=clock)


def rendered(size: int = 100) -> Rendered:
    return Rendered(b"x" * size, b"")


def put(store: ResultStore, name: str, *, ttl: float = 60, size: int = 100) -> bool:
    return store.put(name.encode(), rendered(size), ttl, generation=store.generation)


def names(store: ResultStore, *candidates: str) -> list[str]:
    """Which of them are there; does not count as use."""
    return [name for name in candidates if name.encode() in store._entries]


# Rendering


@pytest.mark.parametrize("rich", [False, True])
def test_bytes_are_those_of_a_fresh_answer_and_the_marks(rich: bool) -> None:
    shown = result(stream("ä\ud800"), display({"text/html": "<b>x</b>", "application/json": {}}))
    made = Rendered.of(shown)

    fresh = json.loads(made.body(rich=rich, cached=False))
    again = json.loads(made.body(rich=rich, cached=True, age=1.5))

    expected = answer(shown, with_outputs=rich) | {"cached": False}
    assert list(fresh) == list(expected)
    clean: dict[str, Any] = json.loads(json.dumps(expected).replace("\\ud800", "\\ufffd"))
    assert fresh == clean
    assert again == clean | {"cached": True, "age": 1.5}


@pytest.mark.parametrize(("age", "text"), [(0.0, "0.000000"), (1e-9, "0.000000"), (1e5, "1e5")])
def test_age_is_a_number(age: float, text: str) -> None:
    body = json.loads(Rendered.of(result()).body(rich=False, cached=True, age=age))
    assert body["age"] == float(text)


# Bounds


def test_the_least_recently_used_goes_first(clock: Clock) -> None:
    store = store_of(clock, max_entries=3)
    for name in ("a", "b", "c"):
        put(store, name)
    assert store.get(b"a", 60) is not None
    put(store, "d")

    assert names(store, "a", "b", "c", "d") == ["a", "c", "d"]
    assert store.statistics.evictions == 1


def test_bytes_are_bounded_with_key_and_bookkeeping(clock: Clock) -> None:
    store = store_of(clock, max_bytes=40 * ENTRY_OVERHEAD)
    for number in range(1000):
        put(store, f"{number:05}", size=ENTRY_OVERHEAD)
        assert store.bytes <= 40 * ENTRY_OVERHEAD

    assert len(store) == 19
    assert store.bytes == 19 * (2 * ENTRY_OVERHEAD + 5)


def test_one_result_larger_than_a_quarter_is_not_kept(clock: Clock) -> None:
    store = store_of(clock)
    put(store, "small")
    room = MIB // 4 - ENTRY_OVERHEAD - 1

    assert put(store, "a", size=room)
    assert not put(store, "b", size=room + 1)

    assert names(store, "small", "a", "b") == ["small", "a"]
    assert (store.statistics.refused, store.statistics.evictions) == (1, 0)


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"max_entries": 0}])
def test_a_bound_of_nothing_keeps_nothing(clock: Clock, bounds: dict[str, int]) -> None:
    store = store_of(clock, **bounds)

    assert not store.enabled
    assert not put(store, "a")
    assert (len(store), store.bytes) == (0, 0)


def test_a_later_result_takes_the_place_of_the_earlier_one(clock: Clock) -> None:
    store = store_of(clock)
    put(store, "a", ttl=10, size=1000)
    clock.now += 5
    put(store, "a", ttl=10, size=10)

    assert store.bytes == 1 + 10 + ENTRY_OVERHEAD
    clock.now += 7
    found = store.get(b"a", 60)
    assert found is not None
    assert (len(found[0].common), found[1]) == (10, 7)
    assert store.statistics.expired == 0


# Life


def test_a_result_ends_with_its_life(clock: Clock) -> None:
    store = store_of(clock)
    put(store, "a", ttl=10)
    put(store, "b", ttl=20)
    clock.now += 10

    assert store.get(b"a", 60) is None
    assert store.get(b"b", 60) is not None
    assert (len(store), store.statistics.expired) == (1, 1)
    clock.now += 10
    assert (len(store), store.bytes, store.statistics.expired) == (0, 0, 2)


def test_a_caller_may_want_a_younger_one(clock: Clock) -> None:
    store = store_of(clock)
    put(store, "a")
    clock.now += 10

    assert store.get(b"a", 10) is None
    assert store.get(b"a", 10.1) is not None


def test_what_has_expired_goes_before_what_has_not(clock: Clock) -> None:
    store = store_of(clock, max_entries=2)
    put(store, "old", ttl=100)
    put(store, "short", ttl=10)
    clock.now += 10
    put(store, "new")

    assert names(store, "old", "short", "new") == ["old", "new"]
    assert store.statistics.evictions == 0


def test_reminders_of_what_has_gone_are_bounded(clock: Clock) -> None:
    store = store_of(clock, max_entries=10)
    for number in range(5000):
        put(store, str(number), ttl=1e6 - number)
        clock.now += 0.001

    assert len(store._ends) < 200
    clock.now += 2e6
    assert (len(store), store.bytes, len(store._ends)) == (0, 0, 0)


# Clearing


def test_clearing_removes_everything_and_what_is_on_its_way(clock: Clock) -> None:
    store = store_of(clock)
    put(store, "a")
    before = store.generation

    assert store.clear() == (1, 1 + 100 + ENTRY_OVERHEAD)
    assert not store.put(b"b", rendered(), 60, generation=before)
    assert put(store, "c")
    assert store.statistics.refused == 1
    assert names(store, "a", "b", "c") == ["c"]


def test_hit_rate_is_a_fraction(clock: Clock) -> None:
    counted = store_of(clock).statistics
    assert counted.hit_rate == 0
    counted.hits, counted.misses, counted.shared = 3, 1, 100
    assert counted.hit_rate == 0.75


# Memory


@pytest.mark.parametrize("largest", [10, 3000, 60_000])
def test_real_memory_stays_within_the_bound(clock: Clock, largest: int) -> None:
    """What ten thousand real answers take is what is counted, within an eighth."""
    tracemalloc.start()
    try:
        store = store_of(clock, max_entries=10_000)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            text = "x" * (number * 7919 % largest)
            shown = result(stream(f"{number} {text}"), display({"text/html": text}))
            key = number.to_bytes(32, "big")
            store.put(key, Rendered.of(shown), 3600 + number % 7, generation=0)
            assert store.bytes <= MIB
        del shown, text, key
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert store.statistics.stores + store.statistics.refused == 10_000
    assert store.statistics.stores > 8_000
    assert len(store) < 1000
    assert after - before <= store.bytes * 9 / 8
