"""`hedgerow model`: compile a PyTorch module into a bundle, look into one, prove one right."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hedgerow.model.bundle import Bundle


@click.group("model")
def command() -> None:
    """Compile, inspect and check model bundles."""


@command.command("export")
@click.argument("factory")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def export_command(factory: str, output: Path, as_json: bool) -> None:
    """Compile FACTORY (module:function returning a hedgerow.author.Spec) into a bundle."""
    from hedgerow import author

    bundle = author.export(author.load_spec(factory))
    bundle.save(output)
    _print(_summary(bundle) | {"path": str(output)}, as_json)


@command.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as one JSON object.")
def inspect_command(path: Path, as_json: bool) -> None:
    """Show what the bundle at PATH is, after checking all its hashes."""
    from hedgerow.model.bundle import Bundle

    bundle = Bundle.load(path)
    summary = _summary(bundle)
    if as_json:
        import msgspec

        summary |= {"manifest": msgspec.to_builtins(bundle.manifest)}
    _print(summary, as_json)
    if not as_json:
        for tensor in bundle.manifest.layout.tensors:
            shared = "shared" if tensor.shared else "private"
            click.echo(f"  {shared:8}{tensor.name} {list(tensor.shape)}")


@command.command("check")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--factory", required=True, help="module:function the bundle was compiled from.")
@click.option("--seed", default=0, show_default=True, help="Seed of the inputs that are compared.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(path: Path, factory: str, seed: int, as_json: bool) -> None:
    """Compare the bundle at PATH with PyTorch: forward, one training step, ten steps.

    Exits with 1 where the largest difference is above 1e-5.
    """
    import numpy as np

    from hedgerow import author
    from hedgerow.model.bundle import Bundle

    rng = np.random.Generator(np.random.PCG64(seed))
    agreement = author.check(Bundle.load(path), author.load_spec(factory), rng)
    figures: dict[str, object] = {
        "forward": agreement.forward,
        "one_step": agreement.one_step,
        "ten_steps": agreement.ten_steps,
        "largest": agreement.largest,
        "tolerance": author.TOLERANCE,
        "agrees": agreement.agrees,
    }
    _print(figures, as_json)
    if not agreement.agrees:
        raise SystemExit(1)


def _summary(bundle: "Bundle") -> dict[str, object]:
    from hedgerow.model.precision import Int8Evidence

    manifest, int8 = bundle.manifest, bundle.manifest.int8
    return {
        "name": manifest.name,
        "version": manifest.version,
        "hash": bundle.hash,
        "bytes": len(bundle.to_bytes()),
        "task": manifest.output.task,
        "input": list(manifest.input.shape),
        "output": manifest.output.size,
        "parameters": manifest.layout.size,
        "parameters_shared": manifest.layout.shared_size,
        "int8_calibrated_on": manifest.calibration,
        "int8": int8.words if isinstance(int8, Int8Evidence) else "not measured",
    }


def _print(figures: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
        return
    for name, value in figures.items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        click.echo(f"{name.replace('_', ' '):20}{shown}")
