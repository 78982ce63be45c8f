"""`hedgerow demo`: ten smartwatches learn together on real data."""

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hedgerow.cli.roles import run_until_signal, start_logging
from hedgerow.core.errors import HedgerowError, UsageError

if TYPE_CHECKING:
    from hedgerow.bench.baselines import Accuracies
    from hedgerow.protocol.view import FleetView
    from hedgerow.serve.fleet import Fleet
    from hedgerow.serve.settings import CoordinatorSettings

BASELINE_ROUNDS = 10
"""Twenty passes over the data: fifty, as many as the federation makes, bring 0.001 more at most."""
SETTLE_SECONDS_MAX = 60.0
"""Longest wait, after the last round, for the watches to fine-tune and for the baselines."""


@click.command("demo")
@click.option("--rounds", type=click.IntRange(1, 1000), default=25, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the final table as one JSON object.")
@click.option("--keep", is_flag=True, help="Leave the page up until Ctrl-C.")
@click.option("--port", type=int, help="Port of the page; 0: any free one. [default: 8420 if free]")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def command(rounds: int, as_json: bool, keep: bool, port: int | None, verbose: bool) -> None:
    """Watch ten smartwatches learn together on real data."""
    from hedgerow.io import data

    start_logging(verbose)
    if not data.is_fetched("watch"):
        click.echo("fetching the smartwatch recordings (11 MB, once) …", err=True)
        data.fetch("watch")

    async def work(stop: asyncio.Event) -> None:
        with tempfile.TemporaryDirectory(prefix="hedgerow-demo-") as directory:
            await _demo(Path(directory), rounds, port, as_json, keep, verbose, stop)

    run_until_signal(work)


async def _demo(
    home: Path,
    rounds: int,
    port: int | None,
    as_json: bool,
    keep: bool,
    verbose: bool,
    stop: asyncio.Event,
) -> None:
    from hedgerow.cli.fleet_live import show
    from hedgerow.io.tasks import end
    from hedgerow.serve.fleet import running_fleet

    started = time.monotonic()
    settings = _settings(home, rounds)
    async with contextlib.AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(running_fleet(settings))
        page = await stack.enter_async_context(_page(fleet, port))
        click.echo(f"page: {page}", err=True)
        watches = await stack.enter_async_context(_watches(home, fleet.join_path, verbose))
        picture = asyncio.create_task(show(fleet.view, plain=as_json))
        running = asyncio.create_task(fleet.run(stop))
        alone = asyncio.create_task(_baseline("alone", fleet))
        pooled = asyncio.create_task(_baseline("pooled", fleet))
        finish = asyncio.create_task(_finish(fleet, alone, pooled, watches))
        try:
            ends: set[asyncio.Task[Any]] = {finish, running}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if running.done():  # interrupted, or failed: then this raises why
                running.result()
                raise KeyboardInterrupt
            finish.result()
        finally:
            fleet.recorder.finished = True
            await asyncio.sleep(0.3)  # one last picture
            await end([picture, finish, alone, pooled])
        view = fleet.view()
        view.seconds = time.monotonic() - started
        _print_result(view, as_json)
        if keep and not as_json:
            click.echo(f"the page stays at {page} until Ctrl-C")
        if keep:
            await running


@contextlib.asynccontextmanager
async def _page(fleet: "Fleet", port: int | None) -> AsyncIterator[str]:
    """The fleet's page on `port`; without one on the usual port, or on a free one if taken."""
    from hedgerow.web.dashboard import fleet_app, serve_dashboard

    settings = fleet.shell.settings.dashboard
    app = fleet_app(fleet.view)
    async with contextlib.AsyncExitStack() as stack:
        try:
            wanted = settings.port if port is None else port
            url = await stack.enter_async_context(serve_dashboard(app, settings.host, wanted))
        except UsageError:
            if port is not None:
                raise
            url = await stack.enter_async_context(serve_dashboard(app, settings.host, 0))
        yield url


def _settings(home: Path, rounds: int) -> "CoordinatorSettings":
    from msgspec.structs import replace

    from hedgerow.algorithms.base import Schedule
    from hedgerow.apps.watch.recipe import ALGORITHM
    from hedgerow.protocol.fleet import RoundRules
    from hedgerow.serve.settings import CoordinatorSettings, NatsSettings

    rules = RoundRules(
        cohort=10, quorum=8, devices_min=10, deadline_seconds=20.0, retry_seconds=1.0, rounds=rounds
    )
    return CoordinatorSettings(
        fleet="watches",
        state=home / "coordinator",
        app="watch",
        nats=NatsSettings(port=0),
        rounds=rules,
        algorithm=ALGORITHM if rounds > 1 else replace(ALGORITHM, schedule=Schedule()),
    )


@contextlib.asynccontextmanager
async def _watches(
    home: Path, join: Path, verbose: bool
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Ten device agents, each a process of its own with one wearer's recordings."""
    from hedgerow.io import data
    from hedgerow.io.children import ends_with_parent

    processes = []
    try:
        for wearer in data.WATCH_WEARERS:
            settings = {
                "personalise_after_seconds": 1.5,
                "check_in_seconds": 5,
                "sensors.0.speed": 5,
                "console.enabled": "false",
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hedgerow", "device"),
                *("--name", f"watch {wearer}", "--wearer", str(wearer)),
                *("--join", str(join), "--state", str(home / f"watch-{wearer}")),
                *(f"--set={name}={value}" for name, value in settings.items()),
                *(["--verbose"] if verbose else []),
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C comes to us; we stop them in order
                preexec_fn=ends_with_parent(),
            )
            processes.append(process)
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _baseline(baseline: Literal["alone", "pooled"], fleet: "Fleet") -> "Accuracies":
    """One comparison, in a process that yields to the watches."""
    import msgspec

    from hedgerow.bench.baselines import Accuracies, Task
    from hedgerow.io.children import ends_with_parent

    task = Task(baseline, BASELINE_ROUNDS, fleet.shell.state.plan, fleet.shell.settings.algorithm)
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "10", sys.executable, "-m", "hedgerow.bench.baselines"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=ends_with_parent(),
    )
    try:
        output, _ = await process.communicate(msgspec.json.encode(task))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise HedgerowError(f"the comparison process ended with {process.returncode}; see above")
    return msgspec.json.decode(output, type=Accuracies)


def _check_alive(watches: list[asyncio.subprocess.Process]) -> None:
    """Every watch is needed: each round wants all ten, and so does the table."""
    dead = [str(i + 1) for i, watch in enumerate(watches) if watch.returncode is not None]
    if dead:
        raise HedgerowError(f"watch {', '.join(dead)} ended early; run again with --verbose")


async def _finish(
    fleet: "Fleet",
    alone: "asyncio.Task[Accuracies]",
    pooled: "asyncio.Task[Accuracies]",
    watches: list[asyncio.subprocess.Process],
) -> None:
    """Wait for the last round, for every watch's own model, and for the comparison."""
    from hedgerow.protocol.view import WearerRow

    while fleet.shell.state.phase != "done":
        _check_alive(watches)
        await asyncio.sleep(0.1)
    version = fleet.shell.state.model.version
    recorder, members = fleet.recorder, fleet.shell.state.members
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while len(recorder.personalised(version)) < len(members) and time.monotonic() < deadline:
        _check_alive(watches)
        await asyncio.sleep(0.1)
    alone_accuracies, pooled_accuracies = await alone, await pooled
    federated, personalised = recorder.accuracies(version), recorder.personalised(version)
    for device, member in members.items():
        wearer = member.name.removeprefix("watch ")
        if device not in federated or device not in personalised:
            raise HedgerowError(f"{member.name} did not report in time; run again with --verbose")
        recorder.table.append(
            WearerRow(
                wearer=wearer,
                alone_own=alone_accuracies.own[wearer],
                alone_others=alone_accuracies.others[wearer],
                federated=federated[device],
                personalised=personalised[device],
                pooled=pooled_accuracies.own[wearer],
            )
        )
    recorder.table.sort(key=lambda row: int(row.wearer))


def _print_result(view: "FleetView", as_json: bool) -> None:
    import msgspec

    if as_json:
        result = {
            "wearers": view.table,
            "rounds": view.rounds_done,
            "bytes_up": view.bytes_up,
            "bytes_down": view.bytes_down,
            "bytes_kept": view.bytes_kept,
            "seconds": round(view.seconds, 1),
            "model_hash": view.model_hash,
        }
        click.echo(msgspec.json.encode(result).decode())
        return
    from rich.console import Console

    from hedgerow.cli.fleet_terminal import final_table, human_bytes

    published = [shown.seconds for shown in view.rounds if shown.outcome == "published"]
    round_seconds = statistics.median(published)
    Console().print(final_table(view))
    click.echo(
        f"{view.rounds_done} rounds of {round_seconds:.2f} s, {view.seconds:.0f} s in all; "
        f"{human_bytes(view.bytes_up)} up, {human_bytes(view.bytes_down)} down, "
        f"{human_bytes(view.bytes_kept)} of recordings kept on the watches"
    )
