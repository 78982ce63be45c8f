"""What a device says of its means when it checks in: power, link and the age of its data."""

from hedgerow.io import clock
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.power import read_power
from hedgerow.protocol.device import Facts
from hedgerow.serve.settings import DeviceSettings

POWER = {"mains": True, "battery": False}


def means_of(settings: DeviceSettings, store: DeviceStore, known: Facts) -> Facts:
    """The means as they are now; link rate and labels stay as `known`."""
    power = read_power()
    newest = store.newest_window("train")
    return Facts(
        battery=power.battery,
        on_power=POWER.get(settings.power, power.on_power),
        metered=settings.metered,
        data_age_seconds=None if newest is None else max(clock.now() - newest, 0.0),
        link_bytes_per_second=known.link_bytes_per_second,
        labels=known.labels,
    )
