"""Kinds by name: those that ship, and those that a package brings by an entry point."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io import plugins
from hedgerow.io.actuators.base import ActuatorDown
from hedgerow.io.sensors.base import Reading, SensorDown
from tests.io.sensing import around, blocks, first, joined, notice, sensor
from tests.tidy.sources import ROOT

OURS = ("audio", "ble", "modbus", "opcua", "recordings", "serial", "system", "video")
OUR_ACTUATORS = ("command", "webhook")
LEAST: dict[str, dict[str, object]] = {
    "ble": {"devices": {"a": "b"}},
    "modbus": {"devices": {"a": 1}, "registers": {"x": {"address": 0}}, "host": "a"},
    "opcua": {"url": "opc.tcp://a", "nodes": {"x": "i=1"}},
    "recordings": {"files": ["a.csv"]},
    "serial": {"port": "a"},
    "video": {"source": "a", "width": 1, "height": 1},
    "webhook": {"url": "https://a", "secret": "env:A"},
    "command": {"argv": ["true"]},
}


def example(page: str, heading: str) -> tuple[str, str]:
    """The Python and the entry points of a page's example, so that the page is what is tried."""
    text = (ROOT / "docs" / page).read_text("utf-8").split(f"## {heading}\n", 1)[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    points = re.search(r"```toml\n\[project.entry-points.\"(.*?)\"\]\n(.*?)```", text, re.DOTALL)
    assert code is not None and points is not None
    module = points[2].partition('"')[2].partition(":")[0]
    entry = points[2].replace('"', "")
    return f"{module}\n{code[1]}", f"[{points[1]}]\n{entry}"


def install(directory: Path, page: str) -> None:
    """What `pip install` leaves behind of a package with the page's example."""
    source, points = example(page, "A kind of your own")
    module, _, code = source.partition("\n")
    (directory / f"{module}.py").write_text(code)
    info = directory / f"{module}-1.0.dist-info"
    info.mkdir()
    name = module.replace("_", "-")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def test_a_sensor_that_a_package_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="sensor has kind 'shaker'; wanted one of audio, ble"):
        sensor("shaker", host="a")
    install(tmp_path, "sensors.md")
    monkeypatch.syspath_prepend(tmp_path)
    data = np.arange(400, dtype="<f4")

    async def run() -> list[Reading]:
        async def shake(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(data.tobytes())
            writer.close()

        server = await asyncio.start_server(shake, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        # From the environment numbers are text.
        made = sensor("shaker", host="127.0.0.1", port=str(port), block=50)
        async with server:
            readings = await first(made, around(["x", "y"], 100), 4)
            with pytest.raises(SensorDown, match="start the shaker"):
                await first(made, around(["x", "y"], 100))
        return readings

    ours = blocks(asyncio.run(run()))
    assert [len(block.samples) for block in ours] == [50] * 4
    np.testing.assert_array_equal(joined(ours), data.reshape(200, 2))
    assert ours[0].stream == "press 4" and 1.7e9 < ours[0].time_seconds < 1e11
    with pytest.raises(UsageError, match=r"sensor 'shaker': .*unknown field `hots`"):
        sensor("shaker", hots="a")


def test_an_actuator_that_a_package_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "actuators.md")
    monkeypatch.syspath_prepend(tmp_path)
    led = plugins.actuator({"kind": "lamp", "led": str(tmp_path), "when": "alert"})

    async def told() -> None:
        async with led.open(around(["x"], 1)) as act:
            await act([notice(), notice(alert=True)])

    asyncio.run(told())
    assert (tmp_path / "brightness").read_text() == "1"
    (tmp_path / "brightness").unlink()
    (tmp_path / "brightness").mkdir()
    with pytest.raises(ActuatorDown, match="plug it in"):
        asyncio.run(told())


def test_what_a_package_brings_does_not_replace_what_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[hedgerow.sensors]\nsystem = os:getcwd\nbad = os:path\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert type(sensor("system")).__module__ == "hedgerow.io.sensors.system"
    with pytest.raises(UsageError, match="'bad' is os:path, which is no Sensor"):
        sensor("bad")


@pytest.mark.parametrize("kind", OURS)
def test_every_setting_of_a_sensor_is_explained(kind: str) -> None:
    page = (ROOT / "docs" / "sensors.md").read_text("utf-8")
    given = sensor(kind, **LEAST.get(kind, {}))
    start = page.index(f'kind = "{kind}"', page.index("## Times and rates"))
    assert _unexplained(type(given), page[page.rindex("\n## ", 0, start) :].split("\n## ")[1]) == []


@pytest.mark.parametrize("kind", OUR_ACTUATORS)
def test_every_setting_of_an_actuator_is_explained(kind: str) -> None:
    page = (ROOT / "docs" / "actuators.md").read_text("utf-8")
    given = plugins.actuator({"kind": kind, **LEAST[kind]})
    assert (
        _unexplained(type(given), page.split(f"\n## {kind.capitalize()}\n")[1].split("\n## ")[0])
        == []
    )


def _unexplained(settings: type, section: str) -> list[str]:
    names = [field.encode_name for field in msgspec.inspect.type_info(settings).fields]  # type: ignore[attr-defined]
    rows = "".join(line for line in section.splitlines() if line.startswith("|"))
    return [name for name in names if f"`{name}`" not in rows]


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind, module, extra in (
        ("modbus", "pymodbus.client", "modbus"),
        ("opcua", "asyncua.ua.uaerrors", "opcua"),
        ("video", "av", "video"),
        ("ble", "bleak.exc", "ble"),
        ("serial", "serial", "serial"),
        ("audio", "sounddevice", "audio"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        channels = ["temperature"] if kind == "ble" else ["x"]
        with pytest.raises(UsageError, match=re.escape(f"pip install 'hedgerow[{extra}]'")):
            asyncio.run(first(sensor(kind, **LEAST.get(kind, {})), around(channels, 1)))
