"""Named random streams: the same name, the same numbers, here and on any machine."""

from hypothesis import assume, given
from hypothesis import strategies as st

from hedgerow.core.streams import stream

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
