"""The bundle in use, and what it runs with here."""

from __future__ import annotations

import importlib.util

import onnxruntime as ort

from hedgerow.core.errors import HedgerowError
from hedgerow.io.device_store import FACT_BUNDLE, DeviceStore
from hedgerow.model.bundle import Bundle
from hedgerow.model.precision import Int8Evidence
from hedgerow.model.providers import survey
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.doctor.finding import Finding, bad, good, odd
from hedgerow.serve.inference.base import Happened, ModelSpec
from hedgerow.serve.inference.runner import runner_of
from hedgerow.serve.settings import DeviceSettings

USELESS = "uninstall the package, or mend what it says; docs/inference.md tells what each one needs"


def providers() -> list[Finding]:
    """What could run a model here, and what is installed that cannot."""
    found = survey()
    here = ", ".join(each.provider.name for each in found if each.here)
    findings = [good("providers", f"ONNX Runtime {ort.__version__} with {here}")]
    missing = []
    for each in found:
        package = each.provider.package
        if each.here:
            continue
        if package and importlib.util.find_spec(package) is not None:
            findings.append(odd("providers", f"{each.provider.name}: {each.reason}", USELESS))
        else:
            missing.append(each.provider.name)
    if missing:
        findings.append(good("providers", f"not installed: {', '.join(missing)}"))
    return findings


def bundle(settings: DeviceSettings, store: DeviceStore | None) -> tuple[Bundle | None, Finding]:
    """The bundle that the device would start with, every hash of it checked."""
    digest = None if store is None else store.fact(FACT_BUNDLE)
    try:
        kept = None if store is None or digest is None else store.blob(digest.decode())
        made = app_bundle(settings.app) if kept is None else Bundle.from_bytes(kept)
    except HedgerowError as error:
        return None, bad("bundle", str(error), "give app = with the name of one that is there")
    manifest = made.manifest
    whence = f"the application {settings.app}" if kept is None else "the fleet"
    cost = manifest.int8
    int8 = cost.words if isinstance(cost, Int8Evidence) else "not measured"
    return made, good(
        "bundle",
        f"{manifest.name} {manifest.version} of {whence}, {made.hash[:12]}, all hashes right; "
        f"{manifest.output.task}, {manifest.layout.size:,} parameters, int8: {int8}",
    )


async def model(settings: DeviceSettings, made: Bundle) -> list[Finding]:
    """Whether it starts and answers, in a process as the agent's, and what it runs with."""
    told: list[Happened] = []
    runner = runner_of(settings.inference, threads=settings.threads, told=told.append)
    name = f"{made.manifest.name} {made.manifest.version}"
    try:
        await runner.use(ModelSpec(made, made.weights, name))
        status = runner.status
    except HedgerowError as error:
        return [bad("model", str(error), "see [inference] in docs/inference.md")]
    finally:
        await runner.close()
    choice = status.choice
    assert choice is not None
    where = "a process of its own" if settings.inference.guard else "the agent's process"
    findings = [good("model", f"runs on {choice.provider} in {choice.precision}, in {where}")]
    findings += [
        good("model", f"{each.what} not taken: {each.reason}")
        for each in choice.tried
        if not each.taken
    ]
    if not settings.inference.guard:
        findings.append(
            odd("model", "a crash of it ends the agent", "set guard = true under [inference]")
        )
    return findings
