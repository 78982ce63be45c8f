"""The whole way: a spec to a bundle."""

import json
from collections.abc import Set

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from hedgerow.author import graphs
from hedgerow.author.quantise import int8_evidence, quantised_graph, ranges_graph
from hedgerow.author.spec import Spec
from hedgerow.author.widths import narrower
from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, Vector
from hedgerow.model.bundle import (
    INFER,
    INFER_INT8,
    RANGES,
    TRAIN,
    WEIGHTS,
    Bundle,
    Manifest,
    pack_weights,
)
from hedgerow.model.quantise import digest, measure
from hedgerow.model.widths import Width, file_of

_NOISE_SAMPLES = 64
_BIAS_SAMPLES = 16


Evaluation = tuple[NDArray[np.float32], NDArray[np.int64] | None]


def export(spec: Spec, evaluation: Evaluation | None = None) -> Bundle:
    """Compile a model.

    What int8 costs is measured on `evaluation`, inputs `[n, *input.shape]` and for a classifier
    their labels `[n]`, or else on the calibration samples, and written into the manifest: devices
    take int8 by themselves where it holds. Of noise nothing can be said.

    Raises:
        UsageError: something in the model cannot be compiled; the message names it.
    """
    layout = spec.layout()
    module = spec.prepared()
    output = msgspec.structs.replace(spec.output, bias=output_bias(spec, module))
    weights = layout.flatten(
        {name: tensor.detach().numpy() for name, tensor in module.named_parameters()}
    )
    train = graphs.train_graph(spec, module)
    infer = graphs.infer_graph(spec, module)
    samples, calibration = _calibration(spec)
    int8, quantised, activations = quantised_graph(
        with_values(infer, layout, weights), layout, samples[:1]
    )
    given = {name for step in quantised for name in (step.quantised, step.scale)}
    given |= {step.zero_point for step in quantised if step.zero_point}
    given |= {name for step in activations for name in (step.scale, step.zero_point)}
    offsets = _offsets(pack_weights(layout, weights))
    files = {
        INFER: with_external(infer, layout, offsets),
        INFER_INT8: _without_values(int8, layout, given, offsets),
        RANGES: with_external(ranges_graph(infer, activations), layout, offsets),
        TRAIN: train,
    }
    widths = []
    for width, part in narrower(spec):
        files |= _narrow_files(width, part)
        widths.append(Width(width=width, layout=part.layout()))
    manifest = Manifest(
        name=spec.name,
        version=spec.version,
        input=spec.input,
        output=output,
        layout=layout,
        plan=spec.plan,
        decide=spec.decide,
        calibration=calibration,
        quantised=quantised,
        activations=activations,
        ranges=((0.0, 0.0),) * len(activations),
        ranges_weights=digest(weights),
        widths=tuple(widths) or msgspec.UNSET,
    )
    bare = Bundle.build(manifest, files, weights)
    ranges = tuple(measure(bare, layout.unflatten(weights), samples))
    ranged = msgspec.structs.replace(manifest, ranges=ranges)
    evaluation = spec.evaluation if evaluation is None else evaluation
    if evaluation is None and spec.calibration is not None:
        evaluation = samples, None
    if evaluation is not None:
        evidence = int8_evidence(Bundle.build(ranged, files, weights), *evaluation)
        ranged = msgspec.structs.replace(ranged, int8=evidence)
    return Bundle.build(ranged, files, weights)


def _narrow_files(width: float, part: Spec) -> dict[str, bytes]:
    module, layout = part.prepared(), part.layout()
    infer = graphs.infer_graph(part, module)
    # Its tensors are blocks of those in the file: it points at the file, but at no place in it.
    return {
        file_of("infer", width): with_external(infer, layout, {}),
        file_of("train", width): graphs.train_graph(part, module),
    }


def output_bias(spec: Spec, module: nn.Module) -> str:
    """The tensor that is added to the output last, by trying; empty if there is none.

    Raises:
        UsageError: the spec names one that is not.
    """
    rng = np.random.Generator(np.random.PCG64(1))
    x = _calibration(spec)[0][:_BIAS_SAMPLES]
    tensors = {name: tensor.detach() for name, tensor in module.named_parameters()}
    before = _outputs(module, tensors, x)
    candidates = [spec.output.bias] if spec.output.bias else list(tensors)[::-1]
    for name in candidates:
        if name not in tensors or tensors[name].shape != (spec.output.size,):
            continue
        step = torch.from_numpy(rng.standard_normal(spec.output.size).astype(np.float32))
        after = _outputs(module, tensors | {name: tensors[name] + step}, x)
        if torch.allclose(after - before, step.expand_as(after), rtol=0, atol=1e-4):
            return name
    if spec.output.bias:
        raise UsageError(
            f"the output schema names the bias {spec.output.bias!r}, but adding to it does not "
            "add the same to the output; leave it empty to have it found"
        )
    return ""


def _outputs(
    module: nn.Module, tensors: dict[str, torch.Tensor], x: NDArray[np.float32]
) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = torch.func.functional_call(module, tensors, (torch.from_numpy(x),))
    return out.flatten(1)


def _calibration(spec: Spec) -> tuple[NDArray[np.float32], str]:
    if spec.calibration is not None:
        return np.asarray(spec.calibration, np.float32), "samples"
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal(
        (_NOISE_SAMPLES, *spec.input.shape), np.float32
    )
    return noise, "noise"


def with_values(graph: bytes, layout: Layout, weights: Vector) -> bytes:
    """The inference graph with the parameters as ordinary initialisers."""
    model = onnx.load_from_string(graph)
    for name, array in layout.unflatten(weights).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    _drop_inputs(model, layout)
    data: bytes = model.SerializeToString()
    return data


def with_external(graph: bytes, layout: Layout, offsets: dict[str, tuple[int, int]]) -> bytes:
    """The inference graph with the parameters as external data in `weights.safetensors`.

    Next to that file any ONNX tool can run the graph; `Predictor` gives the values by name.
    """
    model = onnx.load_from_string(graph)
    for tensor in layout.tensors:
        proto = TensorProto(name=tensor.name, dims=tensor.shape, data_type=TensorProto.FLOAT)
        _point_outside(proto, offsets.get(tensor.name))
        model.graph.initializer.append(proto)
    _drop_inputs(model, layout)
    data: bytes = model.SerializeToString()
    return data


def _without_values(
    graph: bytes,
    layout: Layout,
    quantised: Set[str],
    offsets: dict[str, tuple[int, int]],
) -> bytes:
    """The int8 graph with everything that depends on the weights left for `Predictor` to give."""
    model = onnx.load_from_string(graph)
    outside = quantised | {tensor.name for tensor in layout.tensors}
    for proto in model.graph.initializer:
        if proto.name in outside:
            proto.ClearField("raw_data")
            proto.ClearField("float_data")
            proto.ClearField("int32_data")
            _point_outside(proto, offsets.get(proto.name))
    data: bytes = model.SerializeToString()
    return data


def _drop_inputs(model: onnx.ModelProto, layout: Layout) -> None:
    names = {tensor.name for tensor in layout.tensors}
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _point_outside(proto: TensorProto, place: tuple[int, int] | None) -> None:
    proto.data_location = TensorProto.EXTERNAL
    entries = {"location": WEIGHTS}
    if place is not None:
        entries |= {"offset": str(place[0]), "length": str(place[1] - place[0])}
    for key, value in entries.items():
        proto.external_data.add(key=key, value=value)


def _offsets(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor begins and ends in a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }
