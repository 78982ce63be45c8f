"""Models that come while others are still on their way."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity
from hedgerow.protocol import device as machine
from hedgerow.serve.device import DeviceShell, Hooks
from hedgerow.wire.messages import ModelRef
from hedgerow.wire.weights import model_ref, to_bytes
from tests.serve.hosting import START


def test_an_installed_model_outlives_an_older_one_that_comes_later(tmp_path: Path) -> None:
    weights = {version: START + np.float32(version) for version in (0, 1, 2)}
    models = {version: model_ref(version, held) for version, held in weights.items()}

    async def body() -> None:
        store = DeviceStore(tmp_path / "device.db")
        store.put_blob(to_bytes(weights[0]))
        with ThreadPoolExecutor(1) as executor:
            shell = DeviceShell(
                state=machine.DeviceState(device="ana", name="Ana", model=models[0]),
                identity=Identity.load_or_create(tmp_path / "device.nk"),
                coordinator="",
                store=store,
                trainer=None,  # type: ignore[arg-type]
                executor=executor,
                hooks=Hooks(_nothing, _nothing, lambda what, fields: None),
            )
            shell.state.fetching = {models[n].hash: models[n] for n in (1, 2)}
            for version in (2, 1):  # the older one took longer
                shell._hold(models[version].hash, to_bytes(weights[version]))
                shell.handle(machine.Fetched(models[version].hash))
            assert shell.state.model == models[2]
            await shell.close()  # writes what is installed
            assert store.blob(models[2].hash) == to_bytes(weights[2])
        store.close()

    asyncio.run(body())


def _nothing(model: ModelRef, blob: bytes) -> None:
    return
