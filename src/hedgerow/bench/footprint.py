"""What a device costs: bytes installed, time to import, and memory of real agents.

MB are 10⁶ bytes. `infer_rss_mb` is what an agent that senses and decides has resident after its
start, `model_rss_mb` what the process of its model has (some of both is one and the same memory),
`learn_rss_mb` the most that an agent ever had that also trained in a fleet.
"""

import asyncio
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path

import msgspec

import hedgerow
from hedgerow.core.errors import HedgerowError
from hedgerow.io import data
from hedgerow.io.children import children_of, ends_with_parent
from hedgerow.io.memory import resident_bytes
from hedgerow.protocol.fleet import RoundRules
from hedgerow.serve.fleet import running_fleet
from hedgerow.serve.settings import CoordinatorSettings, NatsSettings

ROUNDS = 3
START_SECONDS = 8.0
LEARN_SECONDS_MAX = 120.0


class FootprintResult(msgspec.Struct, frozen=True):
    """What `hedgerow bench footprint --json` prints."""

    installed_mb: float
    import_s: float
    infer_rss_mb: float
    infer_peak_mb: float
    model_rss_mb: float
    learn_rss_mb: float


def bench_footprint() -> FootprintResult:
    """Measure on this machine; fetches the watch recordings if need be.

    Raises:
        HedgerowError: an agent ended early or did not learn in time.
    """
    data.fetch("watch")
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as directory:
        return asyncio.run(_bench(Path(directory)))


async def _bench(home: Path) -> FootprintResult:
    async with _agent(home / "alone") as process:
        await asyncio.sleep(START_SECONDS)
        model = sum(resident_bytes(child) for child in children_of(process.pid))
        infer, peak = (_resident(process, field) for field in ("VmRSS", "VmHWM"))
    rules = RoundRules(cohort=1, quorum=1, rounds=ROUNDS)
    settings = CoordinatorSettings(
        fleet="bench", state=home / "fleet", nats=NatsSettings(port=0), rounds=rules
    )
    async with running_fleet(settings) as fleet, _agent(home / "one", fleet.join_path) as process:
        async with asyncio.timeout(LEARN_SECONDS_MAX):
            while fleet.shell.state.rounds_done < ROUNDS:
                _resident(process, "VmRSS")  # raises when it ended
                await asyncio.sleep(0.1)
        learn = _resident(process, "VmHWM")
    return FootprintResult(
        installed_mb=round(installed_bytes("hedgerow") / 1e6, 1),
        import_s=round(statistics.median(_import_seconds() for _ in range(3)), 2),
        infer_rss_mb=round(infer / 1e6, 1),
        infer_peak_mb=round(peak / 1e6, 1),
        model_rss_mb=round(model / 1e6, 1),
        learn_rss_mb=round(learn / 1e6, 1),
    )


@contextlib.asynccontextmanager
async def _agent(
    state: Path, join: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hedgerow", "device", "--wearer", "1", "--state", str(state)),
        *("--set", "console.enabled=false"),  # the page is an extra
        *([] if join is None else ["--join", str(join)]),
        stdout=asyncio.subprocess.DEVNULL,
        preexec_fn=ends_with_parent(),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _resident(process: asyncio.subprocess.Process, field: str) -> int:
    if process.returncode is not None:
        raise HedgerowError(f"the agent ended with {process.returncode}; see its message above")
    return resident_bytes(process.pid, field)


def _import_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import hedgerow.serve.agent"], check=True)
    return time.perf_counter() - started


def installed_bytes(name: str, seen: set[str] | None = None) -> int:
    """Bytes of a distribution and of all it requires without extras, each once."""
    seen = set() if seen is None else seen
    if name in seen:
        return 0
    seen.add(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # required on other systems only
        return 0
    total = sum(_size(Path(str(file.locate()))) for file in distribution.files or [])
    if name == "hedgerow":  # installed from a checkout, its files are not in the list
        folder = Path(hedgerow.__file__).parent
        total = sum(_size(file) for file in folder.rglob("*") if file.suffix != ".pyc")
    for requirement in distribution.requires or []:
        if "extra ==" not in requirement:
            total += installed_bytes(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0], seen)
    return total


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
