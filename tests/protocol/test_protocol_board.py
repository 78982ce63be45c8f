"""The board: the worst first, history that is bounded and honest about gaps, and a plain twin."""

import math
from collections import defaultdict

import numpy as np
import pytest

from hedgerow.decide.notice import Notice
from hedgerow.protocol.board import DAY, MINUTES, Board
from hedgerow.protocol.owner import StreamQuery, StreamView


def notice(stream: str, seconds: float, **fields: object) -> Notice:
    usual = {"label": "normal", "confidence": 0.5, "reason": "calm", "changed": False, "score": 0.5}
    return Notice(stream=stream, time_seconds=seconds, **(usual | fields))  # type: ignore[arg-type]


def names(streams: list[StreamView]) -> list[str]:
    return [stream.stream for stream in streams]


def board_of(*notices: Notice, now: float = 0.0) -> Board:
    board = Board()
    board.tell(notices, now)
    return board


def test_a_decision_is_shown_as_it_was_told() -> None:
    board = board_of(
        notice("press 3", 1000.0, label="anomaly", score=2.25, drift=0.5, alert=True, model="v 2")
    )
    (view,) = board.page(StreamQuery(), 1.0).streams
    assert view.stream == "press 3"
    assert view.state == "alert"
    assert (view.label, view.reason, view.model) == ("anomaly", "calm", "v 2")
    assert (view.score, view.drift, view.time_seconds) == (2.25, 0.5, 1000.0)
    assert view.recent == [None] * 29 + [2.25]


def test_what_is_not_measured_is_not_shown_as_zero() -> None:
    board = board_of(notice("watch", 5.0, score=math.nan, confidence=0.75))
    (view,) = board.page(StreamQuery(), 0.0).streams
    assert view.score is None
    assert view.drift is None
    assert view.recent[-1] == 0.75  # the confidence, where nothing scores


def test_the_worst_come_first_and_within_a_state_the_farthest_from_normal() -> None:
    board = board_of(
        notice("a", 1.0, score=0.2),
        notice("b", 1.0, score=0.9),
        notice("c", 1.0, score=3.0, alert=True),
        notice("d", 1.0, score=4.0, alert=True),
        notice("e", 1.0, drift=1.5),
        notice("f", 1.0),
    )
    board.set_learning([board.row("f")], [True])
    page = board.page(StreamQuery(), 1.0)
    assert names(page.streams) == ["d", "c", "e", "f", "b", "a"]
    counts = board.counts(1.0)
    assert (counts.total, counts.alert, counts.drift, counts.learning, counts.fine) == (
        *(6, 2, 1, 1, 2),
    )
    assert board.states(1.0) == "ffaadl"  # in order of name


def test_where_nothing_scores_the_least_sure_come_first() -> None:
    board = board_of(
        *(notice(n, 1.0, score=math.nan, confidence=c) for n, c in [("a", 0.9), ("b", 0.4)])
    )
    assert names(board.page(StreamQuery(), 1.0).streams) == ["b", "a"]


def test_a_stream_that_gives_nothing_is_quiet_whatever_it_said_last() -> None:
    board = Board(quiet_after_seconds=60)
    board.tell([notice("a", 1.0, alert=True), notice("b", 1.0)], 100.0)
    board.tell([notice("b", 50.0)], 150.0)
    assert board.states(161.0) == "qf"
    assert board.counts(161.0).quiet == 1


def test_search_finds_names_and_labels_and_pages_do_not_run_out() -> None:
    board = board_of(*(notice(f"press {n:02}", 1.0) for n in range(25)))
    board.tell([notice("pump", 1.0, label="Cavitation")], 0.0)
    assert names(board.page(StreamQuery(search="PUMP"), 0.0).streams) == ["pump"]
    assert names(board.page(StreamQuery(search="cavit"), 0.0).streams) == ["pump"]
    assert board.page(StreamQuery(search="none"), 0.0).matched == 0
    assert board.page(StreamQuery(search="none"), 0.0).pages == 1
    last = board.page(StreamQuery(order="name", size=10, page=99), 0.0)
    assert (last.page, last.pages, last.matched) == (2, 3, 26)
    assert names(last.streams) == [*(f"press {n}" for n in range(20, 25)), "pump"]
    every = [
        name
        for page in range(3)
        for name in names(board.page(StreamQuery(order="name", size=10, page=page), 0.0).streams)
    ]
    assert every == sorted(every)
    assert len(set(every)) == 26


def test_a_state_can_be_asked_for() -> None:
    board = board_of(notice("a", 1.0), notice("b", 1.0, alert=True))
    assert names(board.page(StreamQuery(state="alert"), 0.0).streams) == ["b"]
    assert names(board.page(StreamQuery(state="drift"), 0.0).streams) == []


def test_without_every_reason_the_newest_of_a_batch_still_holds() -> None:
    board = Board(streams_max=1)
    batch = [
        notice("a", 0.0, reason="calm"),
        notice("a", 1.0, label="anomaly", reason="loud", changed=True, alert=True),
        notice("a", 2.0, label="normal", reason="calm again"),
        notice("b", 2.0),
    ]
    rows = board.tell(batch, now=10.0, every_reason=False)
    assert rows == [0, 0, 0, -1]
    board.set_learning(rows, [False, False, False, True])  # no row for b: nothing to say of it
    detail = board.detail("a", now=10.0)
    assert detail is not None
    shown = detail.stream
    assert (shown.label, shown.time_seconds, shown.reason) == ("normal", 2.0, "loud")
    assert shown.state == "fine"
    assert board.unseen == 1


def test_newest_first() -> None:
    board = board_of(notice("a", 3.0), notice("b", 9.0), notice("c", 5.0))
    assert names(board.page(StreamQuery(order="newest"), 0.0).streams) == ["b", "c", "a"]


def test_a_step_keeps_its_worst_and_a_gap_stays_a_gap() -> None:
    board = Board()
    board.tell([notice("a", 100.0, score=0.4), notice("a", 101.5, score=0.9)], 0.0)
    board.tell([notice("a", 101.9, score=0.3, label="odd")], 0.0)
    board.tell([notice("a", 106.0, score=0.2)], 0.0)
    detail = board.detail("a", 0.0)
    assert detail is not None
    minutes = detail.minutes
    assert minutes.end_seconds == 108.0  # the step of the last window, 106 to 108
    assert minutes.scores[-4:] == [
        pytest.approx(0.9, abs=1e-3),
        None,
        None,
        pytest.approx(0.2, abs=1e-3),
    ]
    told = [None if n is None else minutes.labels[n] for n in minutes.label_numbers[-4:]]
    assert told == ["odd", None, None, "normal"]
    assert len(minutes.scores) == MINUTES[1]
    assert detail.day.scores[-1] == pytest.approx(0.9, abs=1e-3)
    assert len(detail.day.scores) == DAY[1]


def test_silence_shows_as_a_growing_gap_until_it_would_be_everything() -> None:
    board = board_of(notice("a", 1000.0, score=0.5), now=50.0)
    quiet = board.detail("a", 50.0 + 20.0)
    assert quiet is not None
    assert quiet.minutes.scores[-11:] == [0.5] + [None] * 10
    long = board.detail("a", 50.0 + 7000.0)
    assert long is not None
    assert long.minutes.scores[-1] == 0.5  # what was last known, at its own time
    assert long.minutes.end_seconds == 1002.0


def test_old_clocks_and_clocks_that_go_back_are_taken_as_they_are() -> None:
    board = board_of(notice("replay", 7.0, score=0.5))
    board.tell([notice("replay", 9.0, score=0.7)], 1.0)
    detail = board.detail("replay", 1.0)
    assert detail is not None
    assert [s for s in detail.minutes.scores if s is not None] == [
        0.5,
        pytest.approx(0.7, abs=1e-3),
    ]
    board = board_of(notice("a", 1e6, score=0.9))
    board.tell([notice("a", 500.0, score=0.1)], 1.0)  # the clock was set back by days
    again = board.detail("a", 1.0)
    assert again is not None
    assert [s for s in again.minutes.scores if s is not None] == [pytest.approx(0.1, abs=1e-3)]


def test_streams_are_bounded_and_a_place_comes_free() -> None:
    board = Board(streams_max=2)
    board.tell([notice("a", 1.0), notice("b", 1.0), notice("c", 1.0)], 0.0)
    assert board.counts(0.0).total == 2
    assert board.unseen == 1
    assert board.detail("c", 0.0) is None
    assert board.forget("a")
    assert not board.forget("a")
    board.tell([notice("c", 1.0, score=0.25)], 0.0)
    (view,) = board.page(StreamQuery(search="c"), 0.0).streams
    assert view.recent == [None] * 29 + [0.25]  # nothing is left of the stream before
    board.clear()
    assert board.counts(0.0).total == 0


def test_labels_are_bounded_too() -> None:
    board = board_of(*(notice("a", float(n), label=f"label {n}") for n in range(300)))
    assert len(board.labels) == 254
    (view,) = board.page(StreamQuery(), 0.0).streams
    assert view.label == "other"


def test_batches_give_what_a_plain_dictionary_gives() -> None:
    """Random batches of many windows a stream, against one step at a time in plain Python."""
    rng = np.random.default_rng(17)
    board = Board()
    rows = [board.row(name) for name in "abcde"]
    number = board.label_number("normal")
    plain: dict[tuple[int, int], float] = defaultdict(lambda: -math.inf)
    clock = np.full(5, 5000.0)
    for _ in range(120):
        places = rng.integers(0, 5, 40)
        times, scores = np.empty(40), rng.random(40).astype(np.float16)
        for at, place in enumerate(places):
            clock[place] += rng.choice([0.5, 2.0, 9.0, 40.0], p=[0.7, 0.2, 0.09, 0.01])
            times[at] = clock[place]
            key = (place, int(times[at] // MINUTES[0]))
            plain[key] = max(plain[key], float(scores[at]))
        board.push(
            np.array(rows)[places], 0.0, seconds=times, labels=number, confidences=1, scores=scores
        )
    for place, name in enumerate("abcde"):
        detail = board.detail(name, 0.0)
        assert detail is not None
        last = int(clock[place] // MINUTES[0])
        wanted = [plain.get((place, step)) for step in range(last - MINUTES[1] + 1, last + 1)]
        assert [s if s is None else pytest.approx(s, rel=5e-3) for s in wanted] == (
            detail.minutes.scores
        )
