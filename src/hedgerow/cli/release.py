"""`hedgerow release`: new versions of a model, signed, brought to a fleet or to one device."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hedgerow.io.keys import Identity
    from hedgerow.model.bundle import Bundle

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _state(role: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        help=f"State directory of the {role}.",
    )


@click.group("release")
def command() -> None:
    """Sign, publish and follow new versions of a model."""


@command.command("publish")
@BUNDLE
@_state("coordinator")
@click.option(
    "--signed",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A statement made by `hedgerow release sign`; without it the coordinator signs.",
)
def publish_command(bundle: Path, state: Path | None, signed: Path | None) -> None:
    """Hand BUNDLE to the coordinator on this machine: canaries first, then a share, then all.

    A coordinator that does not run takes it when it starts.
    """
    from hedgerow.serve.inbox import SUFFIX
    from hedgerow.serve.releases import SIGNED_SUFFIX, inbox, load_signed

    found, place = _load(bundle), inbox(_directory(state, "coordinator"))
    target = place / f"{found.hash}{SUFFIX}"
    if signed is not None:
        load_signed(signed)
        target.with_suffix(SIGNED_SUFFIX).write_bytes(signed.read_bytes())
    found.save(target)  # whole or not at all, and last
    click.echo(f"{_name(found)} is handed over; follow it with: hedgerow release status")


@command.command("sign")
@BUNDLE
@_state("coordinator")
@click.option("--number", type=click.IntRange(1), required=True, help="Higher than any before.")
@click.option("--previous", default="", help="SHA-256 of the statement of the release before.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
def sign_command(
    bundle: Path, state: Path | None, number: int, previous: str, output: Path
) -> None:
    """Sign BUNDLE as release NUMBER with the fleet's key, without a running coordinator."""
    import msgspec

    from hedgerow.io import clock
    from hedgerow.wire import releases

    key = _key(_directory(state, "coordinator"))
    statement = releases.statement_of(
        _load(bundle), number, previous=previous, created_seconds=clock.now()
    )
    signed = releases.sign(statement, key.public, key.sign)
    output.write_bytes(msgspec.json.encode(signed))
    click.echo(f"signed by {key.public}: statement {signed.digest}")


@command.command("verify")
@click.argument("signed", type=click.Path(path_type=Path, dir_okay=False))
@BUNDLE
@click.option("--key", required=True, help="The fleet's public key (U…), as in its join file.")
@AS_JSON
def verify_command(signed: Path, bundle: Path, key: str, as_json: bool) -> None:
    """Check off line that SIGNED was signed by the key and is about BUNDLE; exit code 1 if not."""
    import msgspec

    from hedgerow.io.keys import verify
    from hedgerow.serve.releases import load_signed
    from hedgerow.wire import releases

    statement = releases.opened(load_signed(signed), key, verify)
    releases.check(statement, _load(bundle))
    _print(msgspec.to_builtins(statement), as_json)


@command.command("status")
@_state("coordinator")
@AS_JSON
def status_command(state: Path | None, as_json: bool) -> None:
    """How far the release is: its stage, its devices, and why any of them failed."""
    from hedgerow.serve.releases import STATUS, inbox

    path = inbox(_directory(state, "coordinator")) / STATUS
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"course": "none"}
    _print(found, as_json)


@command.command("recall")
@_state("coordinator")
@click.option("--why", default="the operator took it back", show_default=True)
def recall_command(state: Path | None, why: str) -> None:
    """Take the release back: every device that was given it goes back to the model before."""
    from hedgerow.serve.releases import RECALL, inbox

    place = inbox(_directory(state, "coordinator"))
    draft = place / f".{RECALL}"
    draft.write_text(why[:200])
    draft.replace(place / RECALL)
    click.echo("taken back; follow it with: hedgerow release status")


@command.command("try")
@BUNDLE
@_state("device")
def try_command(bundle: Path, state: Path | None) -> None:
    """Hand BUNDLE to the device on this machine, for which no fleet is needed.

    It is tried beside the model in use, takes over if it is no worse, and is watched.
    """
    from hedgerow.serve.inbox import OFFERS, SUFFIX, private

    found = _load(bundle)
    place = private(_directory(state, "device") / OFFERS)
    found.save(place / f"{found.hash}{SUFFIX}")
    click.echo(f"{_name(found)} is handed over; follow it on the device's page")


def _directory(state: Path | None, role: str) -> Path:
    from hedgerow.core.errors import UsageError
    from hedgerow.serve.settings import state_directory

    directory = state_directory(role) if state is None else state
    if not directory.is_dir():
        raise UsageError(f"there is no {role} in {directory}; give its place with --state")
    return directory


def _key(state: Path) -> "Identity":
    from hedgerow.io.authority import Credentials
    from hedgerow.serve.fleet import authority_path

    return Credentials.load(authority_path(state) / "coordinator.creds").identity


def _load(path: Path) -> "Bundle":
    from hedgerow.model.bundle import Bundle

    return Bundle.load(path)


def _name(bundle: "Bundle") -> str:
    return f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.hash[:12]})"


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            click.echo(name)
            for key, each in value.items():
                click.echo(f"  {key:18}{each}")
        elif value != "":
            click.echo(f"{name.replace('_', ' '):20}{value}")
