"""`/metrics`: the format by its own grammar, names by the conventions, values by the view."""

import re
from pathlib import Path

import pytest

from hedgerow.protocol.measures import Family, Sample, gauge
from hedgerow.protocol.owner import LoadView, OwnerView
from hedgerow.web.metrics import exposition, families_of
from tests.web import gateways, owners
from tests.web.exposition import Read

UNITS = ("seconds", "bytes", "joules", "watts", "ratio", "total", "info")
COUNTED = ("streams", "items", "messages", "up", "full", "paused", "epsilon")
"""Endings of what has no unit: things, and yes or no."""


def read(view: OwnerView, *more: Family) -> Read:
    return Read(exposition([*families_of(view), *more]))


def test_a_device_tells_what_its_page_shows() -> None:
    owner = gateways.factory(streams=700)
    text = exposition([*families_of(owner.view()), *owner.measures()])
    metrics = Read(text)
    one = metrics.values
    assert one["hedgerow_streams", (("state", "alert"),)] == owner.view().streams.alert == 2
    assert one["hedgerow_sent_messages_total", (("class", "exception"),)] == 641
    assert one["hedgerow_windows_total", ()] == 3_440_000_000
    assert one["hedgerow_store_dropped_total", (("reason", "window_full"),)] == 1_204_000
    assert one["hedgerow_stored_limit_bytes", (("kind", "windows"),)] == 2**30
    assert one["hedgerow_energy_joules_total", (("estimated", "false"), ("source", "RAPL"))] == (
        3_214_000
    )
    assert one["hedgerow_start_time_seconds", ()] == owners.NOW - 3.4 * 86_400
    assert one["hedgerow_outbox_messages", ()] == 3
    down = (("kind", "opcua"), ("name", "opc.tcp://plc-4"), ("role", "sensor"))
    assert one["hedgerow_connection_up", down] == 0
    assert one["hedgerow_decision_latency_seconds_bucket", (("le", "0.001"),)] == 2
    assert metrics.types["hedgerow_decision_latency_seconds"] == "histogram"


def test_what_is_not_known_is_absent_and_not_zero() -> None:
    owner = gateways.watch()
    names = {name for name, _ in read(owner.view()).values}
    assert "hedgerow_energy_joules_total" not in names
    assert "hedgerow_disk_free_bytes" not in names
    assert "hedgerow_fleet_up" not in names  # it is in no fleet
    assert "hedgerow_privacy_epsilon" not in names
    assert "hedgerow_windows_total" in names


def test_names_end_in_a_base_unit_and_nothing_is_in_milli_anything() -> None:
    owner = gateways.factory(streams=10)
    for name in read(owner.view(), *owner.measures()).types:
        assert re.fullmatch(r"(hedgerow|process)_[a-z_]+", name)
        assert name.endswith((*UNITS, *COUNTED)), name
        assert not re.search(r"milli|micro|kilo|percent|_ms\b|_kb\b", name), name


@pytest.mark.parametrize(
    "text", ['a "quoted" name', "back\\slash", "two\nlines", "\\n", "", "Größe ✓", 'x",y="'],
    ids=range(7),
)  # fmt: skip
def test_any_text_survives_as_a_label(text: str) -> None:
    family = Family("hedgerow_info", "gauge", "any \\ text\nat all", [Sample(1.0, {"name": text})])
    assert Read(exposition([family])).values == {("hedgerow_info", (("name", text),)): 1.0}


@pytest.mark.parametrize(
    "value", [0.0, 1.0, -2.5, 1e-12, 3.5e15, 2.0**60, float("inf"), float("-inf"), 12345678.25]
)
def test_any_number_comes_back_as_it_was(value: float) -> None:
    assert Read(exposition([gauge("x_seconds", "x", value)])).values["x_seconds", ()] == value


def test_not_a_number_is_written_so() -> None:
    assert exposition([gauge("x", "x", float("nan"))]).endswith("x NaN\n")
    assert exposition([gauge("x", "x", None)]) == ""


def test_reasons_of_losses_are_labels() -> None:
    owner = gateways.factory(streams=4)
    owner.change(load=LoadView(dropped={"behind": 3, "no model answered": 2}))
    one = read(owner.view()).values
    assert one["hedgerow_dropped_total", (("reason", "behind"),)] == 3
    assert one["hedgerow_dropped_total", (("reason", "no model answered"),)] == 2


def test_every_metric_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    owner = gateways.factory(streams=10)
    families = [*families_of(owner.view()), *owner.measures()]
    assert [family.name for family in families if f"`{family.name}`" not in page] == []
