"""The report: what is drawn is what was measured, and the page needs nothing else."""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow.sim.report import curve, page
from hedgerow.sim.results import RoundRow, spread
from hedgerow.sim.svg import Axis, Line, line_plot, log_ticks, ticks
from tests.web.chromium import chromium


def made_up_rows(runs: int = 3, seeds: int = 2) -> list[RoundRow]:
    """Curves that a real run might have given."""
    rows = []
    for place in range(runs):
        for seed in range(seeds):
            rng = np.random.default_rng(10 * place + seed)
            for round in range(21):
                accuracy = 0.9 - 0.8 * np.exp(-round / (3 + 2 * place)) - 0.01 * rng.random()
                devices = np.clip(rng.normal(accuracy, 0.1, 50), 0, 1)
                made = RoundRow(
                    run=f"algorithm <{place}>",
                    seed=seed,
                    round=round,
                    seconds=round * (200.0 + seed),
                    accuracy=float(accuracy),
                    bytes_up=round * 10 ** (4 + place),
                    bytes_down=round * 10**6,
                    joules=5.0 * round,
                    updates=10 * round,
                )
                rows.append(msgspec.structs.replace(made, **spread(devices)))
    return rows


class _Checker(HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "circle", "polyline", "polygon"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_nobody_for_anything() -> None:
    text = page("A <title>", made_up_rows(), target=0.7, experiment='name = "<x>"')
    checker = _Checker()
    checker.feed(text.partition("<!doctype html>")[2])
    assert checker.open == []
    assert checker.seen["figure"] == 4 and "script" not in checker.seen
    assert not re.search(r"https?://|<link|@import|url\(|<img|src=", text)
    assert "<!--" not in text and "A &lt;title&gt;" in text and "algorithm &lt;0&gt;" in text
    assert "name = &quot;&lt;x&gt;&quot;" in text
    assert "Time to 70%" in text


def test_a_page_without_rounds_says_so() -> None:
    assert "No round has been measured yet" in page("x", [])
    start = [row for row in made_up_rows(1, 1) if row.round == 0]
    assert "after 0 rounds" in page("x", start)


def test_a_curve_is_the_mean_of_its_seeds_with_their_extremes() -> None:
    def seed(accuracies: list[float], seconds: float) -> list[RoundRow]:
        return [
            RoundRow(run="a", seed=0, round=k, seconds=k * seconds, accuracy=accuracy)
            for k, accuracy in enumerate(accuracies)
        ]

    runs = [seed([0.0, 0.5, 1.0], 1.0), seed([0.2, 0.5, 0.6], 2.0)]
    x, mean, low, high = curve(runs, lambda row: float(row.round))
    assert x.tolist() == [0, 1, 2] and mean == pytest.approx([0.1, 0.5, 0.8])
    assert low == pytest.approx([0.0, 0.5, 0.6]) and high == pytest.approx([0.2, 0.5, 1.0])
    x, mean, low, high = curve(runs, lambda row: row.seconds)
    assert (x[0], x[-1]) == (0.0, 2.0)  # as far as both went
    assert mean[-1] == pytest.approx((1.0 + 0.5) / 2)
    x, mean, *_ = curve(runs, lambda row: row.seconds, log=True)
    assert x[0] == 2.0 and mean[0] == pytest.approx(0.75)  # 0 has no logarithm


def test_a_long_run_is_drawn_with_few_points() -> None:
    rows = [RoundRow(run="a", seed=0, round=k, seconds=k, accuracy=k / 5000) for k in range(5000)]
    x, *_ = curve([rows], lambda row: row.seconds)
    assert len(x) <= 241 and x[-1] == 4999


def test_ticks_are_round_numbers_that_span_the_data() -> None:
    assert ticks(0.08, 0.92, 6) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 40, 5) == [0, 10, 20, 30, 40]
    assert ticks(3, 3, 4) == [3.0, 3.1]
    assert log_ticks(3, 6, 5) == pytest.approx([1e3, 1e4, 1e5, 1e6])
    assert log_ticks(0, 0.8, 5) == pytest.approx([1, 2, 3, 5])
    assert all(np.diff(log_ticks(2.1, 9.7, 4)) > 0)


def test_a_line_lies_where_its_values_are() -> None:
    x, y = np.array([0.0, 10.0]), np.array([0.0, 1.0])
    line = Line("a", 0, x, y, y, y)
    axis = Axis("x", str)
    drawn = line_plot([line], axis, axis, width=360, height=258, described="a plot")
    points = re.search(r'class="line" points="([^"]+)"', drawn)
    assert points is not None
    assert points[1] == "46.0,212.0 346.0,12.0"  # margins: 46 left, 14 right, 12 above, 46 below
    assert 'aria-label="a plot"' in drawn


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_a_desk(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(page("A simulation", made_up_rows(), target=0.7), "utf-8")

    async def look() -> None:
        async with chromium() as browser:
            for width, shown in ((390, "narrow"), (1280, "wide")):
                await browser.look(width, 900, scheme)
                await browser.call("Page.navigate", url=path.as_uri())
                await browser.until("document.readyState === 'complete'")
                assert await browser.value("document.documentElement.scrollWidth") == width
                seen = f"document.querySelector('.{shown} svg').getBoundingClientRect().width"
                assert await browser.value(seen) > width / 3
                small = (
                    "Math.min(...[...document.querySelectorAll('.tick')]"
                    ".map(t => t.getBoundingClientRect().height).filter(h => h > 0))"
                )
                assert await browser.value(small) >= 11
            assert browser.log == []

    asyncio.run(look())
