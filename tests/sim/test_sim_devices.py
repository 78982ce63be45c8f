"""The models of devices, links, batteries and availability, by hand."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.core.errors import UsageError
from hedgerow.sim import draws
from hedgerow.sim.availability import HOUR, Always, Churn, Diurnal, Recorded, Trace, read_trace
from hedgerow.sim.clock import Clock
from hedgerow.sim.devices import Devices, DeviceSettings, Surroundings, Tier
from hedgerow.sim.energy import Batteries, EnergySettings, charging_seconds
from hedgerow.sim.network import Links, NetworkSettings, Partition

DAY = 24 * HOUR


def links(settings: NetworkSettings, devices: int = 1) -> Links:
    return Links(settings, np.ones(devices, np.float32), np.random.default_rng(0), seed=0)


# Clock --------------------------------------------------------------------------------------------


def test_what_is_planned_happens_in_order_of_time_and_then_of_planning() -> None:
    clock = Clock()
    for at, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        clock.plan(at, 0, name)
    happened = []
    while (happening := clock.next()) is not None:
        happened.append((clock.now, happening.what))
    assert happened == [(1.0, "a"), (1.0, "b"), (2.0, "c")]


def test_the_past_happens_now() -> None:
    clock = Clock(now=5.0)
    clock.plan(3.0, 0, "late")
    happening = clock.next()
    assert happening is not None and happening.at_seconds == clock.now == 5.0


# Draws --------------------------------------------------------------------------------------------


def test_draws_depend_on_their_numbers_alone_and_spread_evenly() -> None:
    base = draws.key(7, "x")
    values = np.array([draws.uniform(base, k, 3) for k in range(4000)])
    assert values.tolist() == [draws.uniform(base, k, 3) for k in range(4000)]
    assert values.min() > 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02 and abs(values.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.05


# Availability -------------------------------------------------------------------------------------


def test_always_means_always() -> None:
    presence = Always().presence(0)
    assert presence.online(3, 1e9) and presence.change_after(3, 0.0) == np.inf


def test_a_night_goes_from_22_to_7_and_ends_where_it_says() -> None:
    presence = Diurnal(spread_hours=0).presence(0)
    assert presence.online(0, 23 * HOUR) and presence.online(0, 6.9 * HOUR)
    assert not presence.online(0, 7.1 * HOUR)
    assert presence.change_after(0, 0.0) == pytest.approx(7 * HOUR)
    assert presence.change_after(0, 8 * HOUR) == pytest.approx(22 * HOUR)


def test_time_zones_shift_the_night() -> None:
    presence = Diurnal(zones=(6.0,), spread_hours=0).presence(0)
    assert not presence.online(0, 2 * HOUR)  # eight in the morning there
    assert presence.online(0, 16 * HOUR)


def test_a_window_of_a_whole_day_never_ends() -> None:
    presence = Diurnal(from_hour=5, to_hour=5).presence(0)
    assert presence.online(0, 1.0) and presence.change_after(0, 1.0) == np.inf


@given(st.floats(0, 1e6), st.integers(0, 50))
def test_a_change_is_a_change(moment: float, device: int) -> None:
    for settings in (Diurnal(), Churn(on_seconds=100, off_seconds=50)):
        presence = settings.presence(1)
        there, change = presence.online(device, moment), presence.change_after(device, moment)
        assert change > moment
        assert presence.online(device, (moment + change) / 2) == there
        assert presence.online(device, change + 1e-6) != there


def test_churn_is_there_for_its_share_of_the_time_and_the_same_when_asked_backwards() -> None:
    presence = Churn(on_seconds=100, off_seconds=300).presence(2)
    moments = np.linspace(0, 50_000, 400)
    there = [[presence.online(device, t) for t in moments] for device in range(40)]
    assert 0.2 < np.mean(there) < 0.3
    again = [presence.online(3, t) for t in moments[::-1]]
    assert again[::-1] == there[3]


def test_a_trace_is_played_once_or_again(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("device,from_seconds,to_seconds\n0,10,20\n0,15,30\n2,0,5\n")
    once = Trace(file=str(path)).presence(0)
    assert [once.online(0, t) for t in (9, 10, 29, 30, 45)] == [False, True, True, False, False]
    assert once.change_after(0, 12) == 30 and once.change_after(0, 31) == np.inf
    assert not once.online(1, 12) and once.change_after(1, 0) == np.inf
    again = Trace(file=str(path), repeat_seconds=40).presence(0)
    assert again.online(0, 52) and not again.online(0, 71)
    assert again.change_after(0, 31) == 50 and again.change_after(0, 52) == 70


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device,start,end\n", "wants device,from_seconds,to_seconds"),
        ("device,from_seconds,to_seconds\n0,5,5\n", "line 2"),
        ("device,from_seconds,to_seconds\nx,5,6\n", "line 2"),
        ("device,from_seconds,to_seconds\n0,5\n", "line 2"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_trace(path)


def test_a_trace_cannot_repeat_before_it_ends() -> None:
    with pytest.raises(UsageError, match="repeat_seconds"):
        Recorded({0: [(0.0, 100.0)]}, repeat_seconds=50.0)


# Network ------------------------------------------------------------------------------------------


def test_a_message_takes_its_bytes_and_latency_and_the_next_one_waits() -> None:
    plain = links(NetworkSettings(up_bytes_per_second=100, latency_seconds=0))
    assert plain.arrivals(0, 200, up=True, moment=10.0) == [12.0]
    assert plain.arrivals(0, 100, up=True, moment=10.0) == [13.0]
    slow = links(NetworkSettings(up_bytes_per_second=100, latency_seconds=1, overhead_bytes=100))
    (arrival,) = slow.arrivals(0, 100, up=True, moment=0.0)
    assert 3.0 <= arrival <= 4.0


def test_messages_are_lost_and_copied_as_often_as_the_settings_say() -> None:
    bad = links(NetworkSettings(loss=0.3, duplication=0.2), devices=2000)
    copies = [len(bad.arrivals(k, 1, up=False, moment=0.0)) for k in range(2000)]
    assert np.mean(np.equal(copies, 0)) == pytest.approx(0.3, abs=0.04)
    assert np.mean(np.equal(copies, 2)) == pytest.approx(0.7 * 0.2, abs=0.03)


def test_a_partition_cuts_off_its_share_for_its_time() -> None:
    part = Partition(from_seconds=10, to_seconds=20, share=0.25)
    cut = links(NetworkSettings(partitions=(part,)), devices=1000)
    assert not any(cut.cut(k, 9.9) or cut.cut(k, 20.0) for k in range(1000))
    inside = [cut.cut(k, 15.0) for k in range(1000)]
    assert np.mean(inside) == pytest.approx(0.25, abs=0.05)
    lost = inside.index(True)
    assert cut.arrivals(lost, 1, up=True, moment=15.0) == []


def test_a_partition_without_length_is_refused() -> None:
    with pytest.raises(UsageError, match="to_seconds above from_seconds"):
        Partition(from_seconds=5, to_seconds=5)


# Energy -------------------------------------------------------------------------------------------


def test_a_bill_of_computing_and_bytes() -> None:
    settings = EnergySettings(compute_watts=3, up_joules_per_byte=0.01, down_joules_per_byte=0.001)
    batteries = Batteries(settings, 2, np.random.default_rng(0))
    batteries.compute(1, 10.0, 0.0)
    batteries.carry(1, 100, 1000, 0.0)
    assert batteries.spent.tolist() == [0.0, 32.0] and batteries.total == 32.0
    assert batteries.share(1, 1e9) == 1.0 and batteries.may_train(1, 0.0)  # on the mains


def test_a_battery_empties_to_its_reserve_and_charges_at_night() -> None:
    settings = EnergySettings(
        compute_watts=1, capacity_joules=100, start_share=1.0, reserve_share=0.5, charge_watts=0.01
    )
    batteries = Batteries(settings, 1, np.random.default_rng(0))
    noon = 12 * HOUR
    batteries.compute(0, 60.0, noon)
    assert batteries.share(0, noon) == pytest.approx(0.4)
    assert not batteries.may_train(0, noon)
    # From 22:00 on it gets 0.01 W: 36 J an hour, so it is full at 23:40.
    assert batteries.share(0, 21 * HOUR) == pytest.approx(0.4)
    assert batteries.share(0, 23 * HOUR) == pytest.approx(0.76)
    assert batteries.share(0, 30 * HOUR) == 1.0


def test_charging_seconds_add_up_over_days() -> None:
    settings = EnergySettings(charge_from_hour=22, charge_to_hour=7)
    assert charging_seconds(settings, 0.0, DAY) == pytest.approx(9 * HOUR)
    assert charging_seconds(settings, 6 * HOUR, 8 * HOUR) == pytest.approx(HOUR)
    assert charging_seconds(settings, 8 * HOUR, 21 * HOUR) == 0.0
    assert charging_seconds(settings, 23 * HOUR, 3 * DAY + 23 * HOUR) == pytest.approx(27 * HOUR)


# Devices ------------------------------------------------------------------------------------------


def test_tiers_have_their_weights_speeds_and_hours() -> None:
    fast, slow = Tier(weight=3), Tier(slower=10, bandwidth=0.1, availability=Churn())
    settings = DeviceSettings(seconds_per_sample=0.01, start_seconds=2, tiers=(fast, slow))
    devices = Devices.draw(Surroundings(devices=settings), 4000, seed=0)
    assert np.mean(devices.tier == 1) == pytest.approx(0.25, abs=0.03)
    one = np.array([int(np.argmax(devices.tier == 0)), int(np.argmax(devices.tier == 1))])
    seconds = devices.train_seconds(one, np.array([100, 100]))
    assert seconds == pytest.approx([3.0, 12.0], rel=1e-5)
    assert devices.links.up[one] == pytest.approx([500_000, 50_000])
    assert devices.change_after(int(one[0]), 0.0) == np.inf
    assert devices.change_after(int(one[1]), 0.0) < np.inf


def test_the_same_seed_gives_the_same_fleet_and_another_seed_another() -> None:
    around = Surroundings(devices=DeviceSettings(spread=0.5))
    one, same, other = (Devices.draw(around, 100, seed).slowness for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()
    assert np.log(one).std() == pytest.approx(0.5, abs=0.1)


def test_a_fleet_of_none_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Devices.draw(Surroundings(), 0, seed=0)
