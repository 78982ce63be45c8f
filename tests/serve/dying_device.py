"""A device that dies with -9 at each step of a trial, one after the other.

`python -m tests.serve.dying_device DIRECTORY` forks a device for every place at which power may go:
before and after every write to the store and every effect, from the offer of a release until it was
kept and recalled. After each death another process looks at what is left and goes on to the end. It
prints one JSON object a place.
"""

import asyncio
import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hedgerow.io.device_store import DeviceStore
from hedgerow.protocol import trial_state as do
from hedgerow.protocol.trial_rules import TrialRules
from hedgerow.serve.trials import Serving, Trials, checking
from tests.serve.bad_models import GOOD

RULES = TrialRules(
    block_windows=1, watch_windows=100, watch_seconds=0.01, starts_max=1000, slower_max=1000.0
)
SHIFT = np.float32(1e-3)
OTHER = GOOD.with_weights(GOOD.weights * (1 + SHIFT), "other")
VERSION = do.Version(bundle="", name="other", source="fleet", release=1)
GIVEN = np.random.default_rng(0).standard_normal((64, *GOOD.manifest.input.shape)).astype("f4")
checking.TURNS = 1  # how fast the model is does not matter here
WRITES = ("put_blob", "set_fact", "forget_blob")
OVER = 77
"""Exit code of a device that came to the end before its place."""


class Reaper:
    """Counts places, and kills the process at one of them."""

    def __init__(self, place: int) -> None:
        self._left = place

    def pass_by(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def wrapped(*given: Any, **named: Any) -> Any:
            self.pass_by()
            answer = call(*given, **named)
            self.pass_by()
            return answer

        return wrapped


def live(home: Path, place: int) -> None:
    """One life of the device: to the end of the trial, or to its place of death."""
    reaper = Reaper(place)
    store = DeviceStore(home / "device.db")
    for name in WRITES:
        setattr(store, name, reaper.around(getattr(store, name)))

    async def changed(serving: Serving) -> None:
        with (home / "used").open("a") as file:
            file.write(f"{serving.bundle.manifest.version}\n")

    async def body() -> None:
        begin = Serving(GOOD, GOOD.weights, "watch", "bundle")
        trials = Trials(store, begin, RULES, changed=changed)
        trials._act = reaper.around(trials._act)  # type: ignore[method-assign]
        running = asyncio.create_task(trials.run())
        await asyncio.sleep(0)
        model = Serving(OTHER, OTHER.weights, "other", "fleet")
        if not trials.state.standing.past and trials.state.standing.attempt is None:
            trials.offer_version(model, VERSION)
        answers = np.zeros((64, GOOD.manifest.output.size), np.float32)
        answers[:, 0] = 1.0
        while trials.state.standing.attempt is not None:
            if running.done():
                running.result()
            comparison = trials._comparison
            if comparison is not None and comparison._rows == 0:
                comparison.labelled(GIVEN, np.zeros(64, np.int64))
                trials.seen(GIVEN, answers)
            await asyncio.sleep(0.001)
        trials.handle(do.Recalled(1, "the test is over"))
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(body())
    store.close()


def look(home: Path) -> dict[str, Any]:
    """What a device that starts now would decide by."""
    store = DeviceStore(home / "device.db")
    trials = Trials(store, Serving(GOOD, GOOD.weights, "watch", "bundle"), RULES)
    serving, standing = trials.serving, trials.state.standing
    bundle = {GOOD.hash: GOOD, OTHER.hash: OTHER}[serving.bundle.hash]
    assert np.array_equal(serving.weights, bundle.weights)
    used = (home / "used").read_text().split() if (home / "used").exists() else []
    attempt = standing.attempt
    store.close()
    return {
        "active": bundle.manifest.version,
        "used": used[-1:] or [GOOD.manifest.version],
        "phase": "" if attempt is None else attempt.phase,
        "past": [ended.stage for ended in standing.past],
    }


def in_a_process_of_its_own(work: Callable[[], Any]) -> int:
    """Run `work` in a fork; its exit code, negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(OVER)
        except BaseException as error:  # noqa: BLE001 a fork must never come back
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory: Path) -> None:
    step = int(os.environ.get("SOAK_DEATHS_STEP", "3"))  # 1: at every place
    place, code = 1 - step, 0
    while code != OVER:
        place += step
        home = directory / str(place)
        home.mkdir(parents=True)
        code = in_a_process_of_its_own(functools.partial(live, home, place))

        def told(home: Path = home, place: int = place, code: int = code) -> None:
            after = look(home)
            live(home, 0)
            line = {"place": place, "code": code, "after": after, "end": look(home)}
            os.write(1, json.dumps(line).encode() + b"\n")

        assert in_a_process_of_its_own(told) == OVER, f"it did not start after place {place}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
