"""The command line: one file a command, loaded when it is called and not before."""

import importlib

import click

from hedgerow import __version__
from hedgerow.core.errors import HedgerowError, UsageError

COMMANDS = {
    "demo": "Watch ten smartwatches learn together on real data.",
    "device": "Run one device agent.",
    "status": "Tell how the device on this machine is doing.",
    "pair": "Let a browser elsewhere in to the device's page.",
    "egress": "Show, export and verify the record of all that left this device.",
    "doctor": "Check this machine, its settings and its models; say what to mend.",
    "release": "Sign, publish and follow new versions of a model.",
    "coordinator": "Run the coordinator of a fleet.",
    "server": "Run the embedded NATS server.",
    "sim": "Run an experiment in virtual time, over the machines that ship.",
    "model": "Compile, inspect and check model bundles.",
    "data": "Fetch real recordings by package name, checked and cached; list them.",
    "bench": "Measurements on this machine.",
}
"""Every command and its help in one line, so that `--help` imports none of them.

A command is the attribute `command` of `hedgerow.cli.<name>`.
"""

EXTRA_OF = {
    "torch": "author",
    "onnx": "author",
    "onnxscript": "author",
    "nats_server": "coordinator",
    "sqlalchemy": "coordinator",
    "starlette": "coordinator",
    "uvicorn": "coordinator",
    "psycopg": "postgresql",
    "pyarrow": "sim",
    "ray": "ray",
    "paho": "mqtt",
    "cbor2": "mqtt",
    "google": "mqtt",
    "asyncua": "opcua",
    "pymodbus": "modbus",
    "av": "video",
    "sounddevice": "audio",
    "serial": "serial",
    "bleak": "ble",
}
"""Which extra brings a module that the base install does not have."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class Commands(click.Group):
    """The group of all commands; turns errors raised on purpose into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"hedgerow.cli.{cmd_name}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"hedgerow.cli.{cmd_name}.command is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit 2 for what the caller can mend, 1 for the rest, 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except HedgerowError as error:
            _fail(ctx, str(error), EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in EXTRA_OF:
                raise
            extra = EXTRA_OF[missing]
            advice = f"needs the extra {extra!r}: pip install 'hedgerow[{extra}]'"
            _fail(ctx, f"this command {advice} ({missing} is not installed)", EXIT_USAGE)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        return None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hedgerow")
def main() -> None:
    """Hedgerow: devices sense, infer, decide, act and learn; updates travel, data stays."""


def _fail(ctx: click.Context, message: str, code: int) -> None:
    click.echo(f"hedgerow: {message}", err=True)
    ctx.exit(code)
