"""The fleet in a terminal."""

import io

import pytest
from rich.console import Console, RenderableType

from hedgerow.cli.fleet_terminal import (
    final_table,
    human_bytes,
    plain_line,
    printable,
    render,
    seconds,
    sparkline,
)
from hedgerow.protocol.view import FleetView
from tests.web import fleets


def lines_of(what: RenderableType, columns: int, rows: int = 24) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=columns, height=rows, force_terminal=False)
    console.print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 24), (200, 60)])
@pytest.mark.parametrize("devices", [0, 1, 10, 200])
def test_the_view_fits_the_console(columns: int, rows: int, devices: int) -> None:
    lines = lines_of(render(fleets.running(devices=devices)), columns, rows)
    assert len(lines) <= rows - 1
    assert max(map(len, lines)) <= columns


def test_ten_devices_are_all_shown_at_80_by_24() -> None:
    lines = lines_of(render(fleets.running()), 80)
    assert lines[0] == "Hedgerow  watch  Round 7 of 20  training, 3 counted"
    assert lines[1] == "━" * 24 + "─" * 56
    assert lines[2] == "accuracy  ▁▃▅▆▇█  82.4% mean  68.7% worst"
    assert lines[3] == "left 6.5 MB   stayed 5.9 MB   came back 5.9 MB   time 18.4 s"
    assert lines[4] == "not counted 1 not finite, 2 late"
    assert " ".join(lines[7].split()) == (
        "wearer 1 pendulum ▪▪▪▪▪▪ 97% counted 96.2% 641 kB 563 kB"
    )
    assert "no decision yet" in lines[14]
    assert lines[16].startswith("wearer 10")


def test_a_wide_console_shows_the_reason_and_the_personalised_model() -> None:
    assert "because" not in "\n".join(lines_of(render(fleets.running()), 80))
    wide = "\n".join(lines_of(render(fleets.running()), 120))
    assert "because" in wide
    assert "in 4 of the last 5 windows" in wide
    assert "personal" in wide


def test_devices_that_do_not_fit_are_counted() -> None:
    lines = lines_of(render(fleets.running(devices=200)), 80)
    assert lines[-1] == "… and 186 more; 180 of 200 here"


def test_an_empty_fleet_says_so() -> None:
    lines = lines_of(render(FleetView(fleet="watch")), 80)
    assert lines[0] == "Hedgerow  watch  Not started yet  waiting for devices"
    assert lines[-1] == "No device has joined yet."


def test_what_a_device_sends_is_neither_markup_nor_an_escape() -> None:
    view = fleets.running(devices=1)
    view.devices[0].name = "[red]\x1b]0;owned\x07"
    view.devices[0].label = "a\nb\u202e"
    text = "\n".join(lines_of(render(view), 80))
    assert "\x1b" not in text
    assert "[red]�]0;owned�" in text
    assert "a�b�" in text
    assert printable("Ærø [b]") == "Ærø [b]"


def test_the_final_table_has_the_wearers_the_mean_and_the_worst() -> None:
    lines = lines_of(final_table(fleets.finished()), 80)
    assert max(map(len, lines)) <= 80
    cells = [line.replace("│", " ").split() for line in lines]
    assert ["wearer", "1", "97.0%", "61.0%", "97.5%", "98.5%", "98.0%"] in cells
    assert ["mean", "95.6%", "56.0%", "93.9%", "97.2%", "96.2%"] in cells
    assert ["worst", "94.3%", "51.1%", "90.3%", "95.8%", "94.4%"] in cells


def test_the_final_table_of_nobody_is_empty() -> None:
    assert final_table(FleetView(fleet="watch")).row_count == 0


def test_one_plain_line_for_a_finished_round() -> None:
    view = fleets.running()
    assert plain_line(view) == (
        "round 6 of 20 · 10 counted · 2.0 s · 764 kB of updates · accuracy 82.4% mean, 68.7% worst"
    )
    view.rounds[-1].outcome, view.rounds[-1].accuracy_mean = "abandoned", None
    view.rounds_planned = 0
    assert plain_line(view) == "round 6 · abandoned · 10 counted · 2.0 s · 764 kB of updates"
    assert plain_line(FleetView(fleet="watch")) == "watch: no round has finished yet"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (7_643_000, "7.6 MB"),
        (4 * 10**15, "4.0 PB"),
    ],
)
def test_bytes_are_told_in_decimal_units(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_seconds_turn_into_minutes() -> None:
    assert [seconds(s) for s in (0.154, 18.44, 119.9, 120.0, 754.6)] == [
        "0.15 s",
        "18.4 s",
        "119.9 s",
        "2 min 0 s",
        "12 min 34 s",
    ]


def test_a_sparkline_spans_its_own_values() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert sparkline([0.1, 0.2, 0.3], 2) == "▁█"
    assert sparkline([0.4, 0.4], 10) == "██"
    assert sparkline([], 10) == ""
