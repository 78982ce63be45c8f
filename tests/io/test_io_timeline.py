import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.io.timeline import DOWNTIME_SECONDS_MAX, Timeline, this_machine
from tests.io.keeping import Hands

LEAPS = st.floats(-1e10, 1e10, allow_nan=False)


def test_it_begins_at_nothing_and_goes_with_the_time_since_boot() -> None:
    hands = Hands()
    line = Timeline(hands.clocks())
    assert line.seconds() == 0.0
    hands.boot += 5.0
    hands.wall -= 1e9
    assert line.seconds() == 5.0


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e6), LEAPS), max_size=12))
def test_it_never_goes_back_nor_further_than_can_be(
    events: list[tuple[bool, float, float]],
) -> None:
    hands = Hands()
    boots = 0
    line = Timeline(hands.clocks("boot 0"))
    for rebooted, waited, leap in events:
        before = line.seconds()
        hands.boot += waited
        hands.wall += waited
        assert line.seconds() == pytest.approx(before + waited)
        kept, was, wall = line.to_bytes(), line.seconds(), hands.wall
        hands.wall += leap
        away = hands.wall - wall  # a small leap may be none at all
        if rebooted:
            boots += 1
            hands.boot = 3.0
        line = Timeline(hands.clocks(f"boot {boots}"), kept)
        gained = line.seconds() - was
        assert 0 <= gained <= DOWNTIME_SECONDS_MAX
        if not rebooted:
            assert gained == pytest.approx(0, abs=1e-6)
        assert line.jumped == (rebooted and not 0 <= away <= DOWNTIME_SECONDS_MAX)


def test_this_machine_has_a_boot_with_a_name() -> None:
    clocks = this_machine()
    assert len(clocks.boot_id) == 36
    assert 0 < clocks.boot_seconds() <= clocks.boot_seconds()
    assert clocks.wall_seconds() > 1.7e9
