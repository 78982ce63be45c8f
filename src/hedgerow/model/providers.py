"""Execution providers: what could run a model on this machine, and what speaks against it.

ONNX Runtime brings some built in, others come as packages with a library that is registered
(plugin execution providers). Nothing here decides by name alone: whoever opens a session on one
compares its answers with the processor's first (`hedgerow.model.predictor`).
"""

import importlib
import importlib.util
from collections.abc import Sequence

import msgspec
import onnxruntime as ort

from hedgerow.core.errors import UsageError

AUTO = "auto"


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run a graph. `name` is what settings call it, `kind` what ONNX Runtime does.

    `package` is the importable plugin that brings it, where it is not built in; `install` says
    how to get it. Its answers count as right within `tolerance` of the largest answer: many
    accelerators compute in half precision. `by_itself`: tried without being named in a setting.
    """

    name: str
    kind: str
    options: dict[str, str] = {}
    package: str = ""
    install: str = ""
    tolerance: float = 1e-3
    by_itself: bool = True


CPU = Provider(name="cpu", kind="CPUExecutionProvider")
KNOWN: tuple[Provider, ...] = (
    # Compiling an engine takes TensorRT minutes, so it is for those who ask for it.
    Provider(
        name="tensorrt",
        kind="TensorrtExecutionProvider",
        install="onnxruntime-gpu in place of onnxruntime, and TensorRT",
        tolerance=1e-2,
        by_itself=False,
    ),
    Provider(
        name="cuda",
        kind="CUDAExecutionProvider",
        options={"use_tf32": "0"},
        install="onnxruntime-gpu in place of onnxruntime",
    ),
    Provider(
        name="migraphx",
        kind="MIGraphXExecutionProvider",
        install="onnxruntime-migraphx in place of onnxruntime",
        tolerance=1e-2,
    ),
    Provider(
        name="qnn",
        kind="QNNExecutionProvider",
        options={"backend_type": "htp"},
        package="onnxruntime_qnn",
        install="onnxruntime-qnn",
        tolerance=2e-2,
    ),
    Provider(
        name="coreml",
        kind="CoreMLExecutionProvider",
        install="onnxruntime for macOS",
        tolerance=2e-2,
    ),
    Provider(
        name="directml",
        kind="DmlExecutionProvider",
        install="onnxruntime-directml in place of onnxruntime",
        tolerance=1e-2,
    ),
    Provider(
        name="openvino",
        kind="OpenVINOExecutionProvider",
        package="onnxruntime_ep_openvino",
        install="onnxruntime-ep-openvino on Intel hardware, else onnxruntime-openvino in place of "
        "onnxruntime",
        tolerance=2e-2,
    ),
    Provider(
        name="webgpu",
        kind="WebGpuExecutionProvider",
        package="onnxruntime_ep_webgpu",
        install="onnxruntime-ep-webgpu",
        tolerance=1e-2,
        by_itself=False,
    ),
    Provider(
        name="xnnpack",
        kind="XnnpackExecutionProvider",
        install="a build of ONNX Runtime with --use_xnnpack",
    ),
    CPU,
)
"""In order of preference; the processor is last and always there."""


class Presence(msgspec.Struct, frozen=True):
    """Whether a provider can be tried here, and if not, why."""

    provider: Provider
    here: bool
    reason: str


def survey() -> tuple[Presence, ...]:
    """Each known provider, in order of preference. Registers the plugins that are installed."""
    return tuple(_presence(provider) for provider in KNOWN)


def chosen(asked: Sequence[str]) -> tuple[Provider, ...]:
    """Which providers to try, in order, for a setting such as `("auto",)` or `("openvino", "cpu")`.

    The processor always comes last.

    Raises:
        UsageError: a name that is none, or that cannot be had here.
    """
    known = {provider.name: provider for provider in KNOWN}
    unknown = [name for name in asked if name not in known and name != AUTO]
    if unknown or not asked:
        raise UsageError(
            f"providers are {list(asked)}; wanted {AUTO}, or some of {', '.join(known)}"
        )
    wanted: list[Provider] = []
    for name in asked:
        if name == AUTO:
            wanted += [p.provider for p in survey() if p.here and p.provider.by_itself]
            continue
        presence = _presence(known[name])
        if not presence.here:
            raise UsageError(f"provider {name}: {presence.reason}; or set providers = ['auto']")
        wanted.append(presence.provider)
    names = dict.fromkeys([*(provider.name for provider in wanted), CPU.name])
    names[CPU.name] = names.pop(CPU.name)  # to the end
    return tuple(known[name] for name in names)


def devices(provider: Provider) -> list[object]:
    """The hardware that a plugin offers; empty for a provider that is built in, or not there.

    Raises:
        UsageError: the package is there, and its library cannot be loaded.
    """
    if provider.kind in ort.get_available_providers() or not provider.package:
        return []
    if importlib.util.find_spec(provider.package) is None:
        return []
    if not hasattr(ort, "register_execution_provider_library"):
        raise UsageError(f"ONNX Runtime {ort.__version__} takes no plugins; wanted 1.23 or newer")
    try:
        plugin = importlib.import_module(provider.package)
        ort.register_execution_provider_library(provider.name, plugin.get_library_path())
    except Exception as error:  # ONNX Runtime's own errors share no base but Exception
        if "already" not in str(error):
            raise UsageError(
                f"the library of {provider.package} cannot be used: {error}"
            ) from error
    return [device for device in ort.get_ep_devices() if device.ep_name == provider.kind]


def _presence(provider: Provider) -> Presence:
    if provider.kind in ort.get_available_providers():
        return Presence(provider, True, f"built into ONNX Runtime {ort.__version__}")
    if provider.package and importlib.util.find_spec(provider.package) is not None:
        try:
            found = devices(provider)
        except UsageError as error:
            return Presence(provider, False, str(error))
        if not found:
            return Presence(provider, False, f"{provider.package} finds no hardware it knows here")
        return Presence(provider, True, f"from {provider.package}")
    return Presence(
        provider, False, f"not in ONNX Runtime {ort.__version__}; install {provider.install}"
    )
