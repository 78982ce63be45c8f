"""`hedgerow demo`: ten smartwatches learn together on real data."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hedgerow.cli.roles import run_until_signal, start_logging
from hedgerow.core.errors import HedgerowError

if TYPE_CHECKING:
    from hedgerow.bench.baselines import Accuracies
    from hedgerow.protocol.view import FleetView
    from hedgerow.serve.fleet import Fleet
    from hedgerow.serve.settings import CoordinatorSettings

SETTLE_SECONDS_MAX = 60.0
"""Longest wait, after the last round, for the watches to fine-tune and for the baselines."""


@click.command("demo")
@click.option("--rounds", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the final table as one JSON object.")
@click.option("--keep", is_flag=True, help="Leave the page up until Ctrl-C.")
@click.option("--port", default=8420, show_default=True, help="Port of the page; 0: any free one.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def command(rounds: int, as_json: bool, keep: bool, port: int, verbose: bool) -> None:
    """Watch ten smartwatches learn together on real data."""
    from hedgerow.io import data

    start_logging(verbose)
    if not data.is_fetched("watch"):
        click.echo("fetching the smartwatch recordings (11 MB, once) …", err=True)
        data.fetch("watch")

    async def work(stop: asyncio.Event) -> None:
        with tempfile.TemporaryDirectory(prefix="hedgerow-demo-") as directory:
            await _demo(Path(directory), rounds, port, as_json, keep, stop)

    run_until_signal(work)


async def _demo(
    home: Path, rounds: int, port: int, as_json: bool, keep: bool, stop: asyncio.Event
) -> None:
    from hedgerow.serve.fleet import running_fleet
    from hedgerow.web.dashboard import fleet_app, serve_dashboard

    started = time.monotonic()
    settings = _settings(home, rounds)
    async with contextlib.AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(running_fleet(settings))
        page = await stack.enter_async_context(
            serve_dashboard(fleet_app(fleet.view), settings.dashboard.host, port)
        )
        click.echo(f"page: {page}", err=True)
        watches = await stack.enter_async_context(_watches(home, fleet.join_path))
        show = asyncio.create_task(_show(fleet, page, plain=as_json))
        running = asyncio.create_task(fleet.run(stop))
        alone = asyncio.create_task(_baseline("alone", settings, fleet))
        pooled = asyncio.create_task(_baseline("pooled", settings, fleet))
        try:
            finish = asyncio.create_task(_finish(fleet, alone, pooled, watches))
            ends: set[asyncio.Task[Any]] = {finish, running}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if running.done():  # interrupted, or failed: then this raises why
                running.result()
                raise KeyboardInterrupt
            finish.result()
        finally:
            fleet.recorder.finished = True
            await asyncio.sleep(0.3)  # one last picture
            for task in (show, alone, pooled):
                task.cancel()
            await asyncio.gather(show, alone, pooled, return_exceptions=True)
        view = fleet.view()
        view.seconds = time.monotonic() - started
        _print_result(view, as_json)
        if keep and not as_json:
            click.echo(f"the page stays at {page} until Ctrl-C")
        if keep:
            await running


def _settings(home: Path, rounds: int) -> "CoordinatorSettings":
    from hedgerow.apps.watch.recipe import FEDAVG
    from hedgerow.protocol.fleet import RoundRules
    from hedgerow.serve.settings import CoordinatorSettings, NatsSettings

    rules = RoundRules(cohort=10, quorum=8, deadline_seconds=20.0, retry_seconds=1.0, rounds=rounds)
    return CoordinatorSettings(
        fleet="watches",
        state=home / "coordinator",
        app="watch",
        nats=NatsSettings(port=0),
        rounds=rules,
        fedavg=FEDAVG,
    )


@contextlib.asynccontextmanager
async def _watches(home: Path, join: Path) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Ten device agents, each a process of its own with one wearer's recordings."""
    from hedgerow.io import data

    processes = []
    try:
        for wearer in data.WATCH_WEARERS:
            settings = {
                "personalise_after_seconds": 1.5,
                "check_in_seconds": 5,
                "sensor.speed": 5,
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hedgerow", "device"),
                *("--name", f"watch {wearer}", "--wearer", str(wearer)),
                *("--join", str(join), "--state", str(home / f"watch-{wearer}")),
                *(f"--set={name}={value}" for name, value in settings.items()),
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C comes to us; we stop them in order
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


async def _baseline(
    baseline: Literal["alone", "pooled"], settings: "CoordinatorSettings", fleet: "Fleet"
) -> "Accuracies":
    """One comparison, in a process that yields to the watches."""
    import msgspec

    from hedgerow.bench.baselines import Accuracies, Task

    task = Task(baseline, settings.rounds.rounds, fleet.shell.state.plan, settings.fedavg)
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "10", sys.executable, "-m", "hedgerow.bench.baselines"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
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


async def _finish(
    fleet: "Fleet",
    alone: "asyncio.Task[Accuracies]",
    pooled: "asyncio.Task[Accuracies]",
    watches: list[asyncio.subprocess.Process],
) -> None:
    """Wait for the last round, for every watch's own model, and for the comparison."""
    from hedgerow.protocol.view import WearerRow

    while fleet.shell.state.phase != "done":
        dead = [str(i + 1) for i, watch in enumerate(watches) if watch.returncode is not None]
        if len(dead) > 2:
            raise HedgerowError(f"watches {', '.join(dead)} ended early; run again with --verbose")
        await asyncio.sleep(0.1)
    version = fleet.shell.state.model.version
    recorder, members = fleet.recorder, fleet.shell.state.members
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    while len(recorder.personalised(version)) < len(members) and time.monotonic() < deadline:
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


async def _show(fleet: "Fleet", page: str, *, plain: bool) -> None:
    """The live view in a terminal; a line for each round elsewhere."""
    from rich.console import Console
    from rich.live import Live

    from hedgerow.cli.fleet_terminal import plain_line, render

    console = Console(stderr=True)
    if console.is_terminal and not plain:
        with Live(render(fleet.view()), console=console, auto_refresh=False) as live:
            while True:
                live.update(render(fleet.view()), refresh=True)
                await asyncio.sleep(0.25)
    shown = 0
    while True:
        view = fleet.view()
        if len(view.rounds) > shown:
            shown = len(view.rounds)
            console.print(plain_line(view), soft_wrap=True)
        await asyncio.sleep(0.25)


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

    from hedgerow.cli.fleet_terminal import final_table

    Console().print(final_table(view))
