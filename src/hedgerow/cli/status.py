"""`hedgerow status`: how the device on this machine is doing."""

from __future__ import annotations

import json
import ssl
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit

import click
import msgspec

from hedgerow.core.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.protocol.owner import OwnerView
    from hedgerow.web.access import Running

ANSWER_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 4 * 2**20
EXIT_NOT_RUNNING = 1


@click.command("status")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="HEDGEROW_CONFIG",
    help="The device's settings, which say where its state is.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="The device's state directory.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_context
def command(context: click.Context, config: Path | None, state: Path | None, as_json: bool) -> None:
    """Tell how the device on this machine is doing."""
    directory = state_of(config, state)
    view, url = asked(directory)
    if view is not None:
        known = {"running": True, "console": url, **msgspec.to_builtins(view)}
        click.echo(json.dumps(known) if as_json else "\n".join(lines_of(view, url)))
        return
    left = left_behind(directory)
    if as_json:
        click.echo(json.dumps({"running": False, "state": str(directory), **left}))
    else:
        click.echo(f"no console answers for the state in {directory}")
        for kind, kept in left["stored"].items():
            click.echo(f"{kind:<10} {kept['count']:,} kept, {bytes_in_words(kept['bytes'])}")
    context.exit(EXIT_NOT_RUNNING)


def state_of(config: Path | None, state: Path | None) -> Path:
    """The device's state directory: the one given, or as its settings have it."""
    if state is not None:
        return state
    from hedgerow.serve.settings import DeviceSettings, environment, load_settings

    return load_settings(DeviceSettings, config, environment(), {}).state


def asked(directory: Path) -> tuple[OwnerView | None, str]:
    """The view of the running device and its console's address; None: none answers.

    Raises UsageError when what the device wrote down about its console cannot be read.
    """
    from hedgerow.protocol.owner import OwnerView
    from hedgerow.web.access import read_running

    running = read_running(directory)
    if running is None:
        return None, ""
    try:
        return msgspec.json.decode(_get(running, "api/owner"), type=OwnerView), running.url
    except (OSError, URLError):  # what a kill left behind: nobody is there any more
        return None, ""
    except msgspec.DecodeError as error:
        raise UsageError(
            f"the device at {running.url} answers in another way than this Hedgerow knows "
            f"({error}); use the same version for both"
        ) from error


def left_behind(directory: Path) -> dict[str, Any]:
    """What a device that does not run, or has no console, keeps in its state directory."""
    from hedgerow.io.device_store import DeviceStore

    path = directory / "device.db"
    if not path.exists():
        raise UsageError(
            f"there is no device in {directory}; name its state directory by --state, or its "
            "settings by --config"
        )
    store = DeviceStore.reading(path)
    try:
        stored = msgspec.to_builtins(store.kept())
        return {"stored": stored, "drops": store.drops()}
    finally:
        store.close()


def lines_of(view: OwnerView, url: str) -> list[str]:
    """The view in a dozen lines."""
    streams, model, sharing, sent = view.streams, view.model, view.sharing, view.sent
    look = "needs a look" if streams.alert == 1 else "need a look"
    states = {look: streams.alert, "changed": streams.drift, "silent": streams.quiet}
    states |= {"learning": streams.learning, "as usual": streams.fine}
    told = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    shared = "in no fleet"
    if sharing.fleet:
        reach = "connected" if sharing.online else "out of reach"
        shared = f"fleet {sharing.fleet}, {'paused' if sharing.paused else reach}"
        shared += f", {sharing.waiting_messages:,} waiting" if sharing.waiting_messages else ""
    kept = sum(entry.bytes for entry in view.stored.kept)
    runs_on = " on ".join(part for part in (model.precision, model.provider) if part)
    rows = [
        ("device", f"{view.name}, {view.app}, up {span_in_words(view.up_seconds)}"),
        ("streams", f"{streams.total:,}" + (f": {told}" if told else "")),
        *(
            (("look at", f"{one.stream}: {one.reason or one.label}"))
            for one in view.worst
            if one.state == "alert"
        ),
        ("model", f"{model.name} {model.version}" + (f", {runs_on}" if runs_on else "")),
        ("sharing", shared),
        ("sent", f"{bytes_in_words(sent.bytes)} in {sent.messages:,} messages, "
                 f"{bytes_in_words(sent.bytes_today)} today"),
        ("stored", bytes_in_words(kept) + (", and the disk is full" if view.stored.full else "")),
        *_means(view),
        *(
            ("down", f"{one.role} {one.name}: {one.why or 'no reason given'}")
            for one in view.sensors
            if not one.up
        ),
        ("console", url),
    ]  # fmt: skip
    return [f"{name:<9}{_printable(text)}" for name, text in rows]


def _means(view: OwnerView) -> list[tuple[str, str]]:
    load, energy = view.load, view.energy
    share = "" if load.cpu_share is None else f"{100 * load.cpu_share:.0f}% of one core, "
    rows = [("machine", f"{share}{bytes_in_words(load.resident_bytes)} of memory")]
    lost = ", ".join(f"{count:,} {reason}" for reason, count in load.dropped.items() if count)
    if lost:
        rows.append(("lost", lost))
    if energy is not None:
        told = f"{energy.joules:,.0f} J since the start"
        if energy.joules_per_inference is not None:
            told = f"{1000 * energy.joules_per_inference:.3g} mJ a decision, {told}"
        how = "estimated from CPU time" if energy.estimated else f"measured by {energy.source}"
        rows.append(("energy", f"{told}; {how}"))
    return rows


def bytes_in_words(count: float) -> str:
    """As "1.2 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span_in_words(seconds: float) -> str:
    """As "3 days"."""
    for name, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {name}s"
    return f"{seconds:.0f} seconds"


def _printable(text: str) -> str:
    """Without control characters: names and reasons come from outside."""
    return "".join(sign for sign in text if sign.isprintable())


def _get(running: Running, path: str) -> bytes:
    """Raises OSError and URLError."""
    if urlsplit(running.url).scheme not in ("http", "https"):
        raise OSError(f"{running.url} is no address of a console")
    request = urllib.request.Request(running.url + path)  # noqa: S310
    request.add_header("Authorization", f"Bearer {running.token}")
    # This very machine wrote the address; its certificate names the one that browsers use.
    own = ssl.create_default_context()
    own.check_hostname, own.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=own)
    )
    with opener.open(request, timeout=ANSWER_SECONDS_MAX) as answer:
        body: bytes = answer.read(ANSWER_BYTES_MAX)
    return body
