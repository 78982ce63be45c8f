"""Named random streams: the same name, the same numbers, here and on any machine."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from hedgerow.core.streams import key_of, keys_of, mixed, permutations, stream, subkeys

names = st.lists(st.text(max_size=8) | st.integers(0, 2**40), max_size=4)


def test_numbers_that_may_never_change() -> None:
    """A change here changes every run that was ever recorded."""
    assert stream(7, "device", "ana", "round", 3).integers(0, 1000, 5).tolist() == [
        190,
        118,
        544,
        907,
        218,
    ]


@given(st.integers(0, 2**62), names)
def test_the_same_name_gives_the_same_numbers(seed: int, path: list[str | int]) -> None:
    first, second = stream(seed, *path), stream(seed, *path)
    assert first.random(4).tolist() == second.random(4).tolist()


@given(st.integers(0, 100), st.integers(0, 100), names, names)
def test_another_name_gives_others(
    seed: int, other: int, path: list[str | int], way: list[str | int]
) -> None:
    def key(number: int, parts: list[str | int]) -> str:
        return "\x1f".join([str(number), *map(str, parts)])

    assume(key(seed, path) != key(other, way))
    assert stream(seed, *path).random(4).tolist() != stream(other, *way).random(4).tolist()


def test_keys_that_may_never_change() -> None:
    assert int(key_of(7, "device", "ana")) == 0x4EB30C3181F4990B
    keys = keys_of(7, ("device",), np.arange(2))
    assert keys.tolist() == [177454154635652102, 8193402435270650378]
    assert permutations(keys, 6).tolist() == [[5, 4, 0, 2, 3, 1], [4, 5, 1, 2, 3, 0]]


def test_splitmix_as_published() -> None:
    """The first numbers of Java's SplittableRandom(0): the finaliser of multiples of γ."""
    gamma = np.array([0x9E3779B97F4A7C15], np.uint64)
    assert [hex(mixed(gamma * np.uint64(k))[0]) for k in (1, 2, 3)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@given(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(0, 5))
def test_an_order_holds_each_number_once_and_is_each_keys_own(
    first: int, count: int, number: int
) -> None:
    keys = np.array([first, first ^ 1], np.uint64)
    orders = permutations(subkeys(keys, number), count)
    assert orders.shape == (2, count)
    for k in range(2):
        assert sorted(orders[k].tolist()) == list(range(count))
        alone = permutations(subkeys(keys[k : k + 1], number), count)
        assert np.array_equal(alone[0], orders[k])


def test_orders_are_even() -> None:
    """Each of five numbers stands first about equally often."""
    orders = permutations(keys_of(0, (), np.arange(5000)), 5)
    assert np.abs(np.bincount(orders[:, 0]) - 1000).max() < 120
    assert len({tuple(order) for order in orders.tolist()}) == 120
