from hedgerow.bench.outbox import Tally, bench_outbox
from hedgerow.wire.events import Occurrence


def test_a_device_that_is_killed_loses_nothing_and_counts_nothing_twice() -> None:
    said: list[str] = []
    result = bench_outbox(8, 3_000, said.append)
    assert (result.kills, result.lost, result.duplicated) == (8, 0, 0)
    assert result.messages > 3_000
    assert result.messages_per_s > 0
    assert said[-1] == "timing 3,000 messages"


def test_the_tally_sees_what_is_missing_and_what_came_twice() -> None:
    tally = Tally()
    events = [Occurrence(stream="a", time_seconds=float(n), label="b") for n in (0, 1, 1, 5_000)]
    tally.counted("me", events)
    assert (tally.missing("me", 2), tally.missing("me", 3), tally.twice("me")) == (0, 1, 1)
    assert (tally.missing("you", 3), tally.twice("you")) == (3, 0)
