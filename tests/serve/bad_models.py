"""A good model, windows that it knows most of, and six ways to be a bad one."""

import functools

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedgerow.core.layout import Vector
from hedgerow.model.bundle import INFER, WEIGHTS, Bundle, Manifest
from hedgerow.model.predictor import Predictor
from hedgerow.serve.apps import app_bundle

GOOD: Bundle = app_bundle("watch")
Array = NDArray[np.float32]


def inputs(count: int, seed: int = 0) -> Array:
    """Model inputs of swings at speeds of their own, `[count, *shape]`."""
    rng = np.random.default_rng(seed)
    channels, samples = GOOD.manifest.input.shape
    time = np.arange(samples) / GOOD.manifest.input.rate_hz
    speed, phase = rng.uniform(0.2, 4, (2, count, channels, 1))
    swing = np.sin(2 * np.pi * speed * time + phase) * rng.uniform(0.2, 2, (count, channels, 1))
    return np.asarray(swing + rng.normal(0, 0.2, swing.shape), np.float32)


def labels_of(given: Array, right: float = 0.9, seed: int = 1) -> NDArray[np.int64]:
    """Labels by which the good model is right in that share of the windows."""
    rng = np.random.default_rng(seed)
    answers = Predictor(GOOD)(given).argmax(axis=1)
    wrong = rng.random(len(given)) >= right
    other = (answers + 1) % GOOD.manifest.output.size
    return np.asarray(np.where(wrong, other, answers), np.int64)


def changed_share(weights: Vector, given: Array) -> float:
    """Share of windows to which these weights answer otherwise than the good model."""
    one, other = Predictor(GOOD)(given), Predictor(GOOD, weights=weights)(given)
    return float(np.mean(one.argmax(axis=1) != other.argmax(axis=1)))


@functools.cache
def nudged(share: float, seed: int = 2) -> Bundle:
    """The good model with noise on its weights, so that about this share of answers changes."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(len(GOOD.weights)).astype(np.float32) * np.abs(GOOD.weights)
    given = inputs(800, seed=3)
    low, high = 0.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        if changed_share(GOOD.weights + np.float32(middle) * noise, given) < share:
            low = middle
        else:
            high = middle
    return GOOD.with_weights(GOOD.weights + np.float32(high) * noise, f"nudged {share}")


def random_weights() -> Bundle:
    rng = np.random.default_rng(4)
    spread = float(GOOD.weights.std())
    weights = rng.normal(0, spread, len(GOOD.weights)).astype(np.float32)
    return GOOD.with_weights(weights, "random")


def overflowing() -> Bundle:
    """Finite weights whose answers are not."""
    return GOOD.with_weights(np.full(len(GOOD.weights), 3e38, np.float32), "overflowing")


def _graphs() -> dict[str, bytes]:
    return {name: data for name, data in GOOD.files.items() if name != WEIGHTS}


def slow() -> Bundle:
    """The same answers, after work that is worth many times the model's own."""
    model = onnx.load_model_from_string(GOOD.file(INFER))
    graph, size = model.graph, GOOD.manifest.output.size
    (output,) = (one for one in graph.output if one.name == "output")
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "output":
                node.output[index] = "fast"
    rng = np.random.default_rng(5)
    parts = {
        "wide": rng.standard_normal((size, 512)) / 30,
        "square": rng.standard_normal((512, 512)) / 30,
        "narrow": rng.standard_normal((512, size)) * 1e-12,
    }
    for name, array in parts.items():
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    graph.node.append(helper.make_node("MatMul", ["fast", "wide"], ["h0"]))
    for index in range(45):
        graph.node.append(helper.make_node("MatMul", [f"h{index}", "square"], [f"m{index}"]))
        graph.node.append(helper.make_node("Tanh", [f"m{index}"], [f"h{index + 1}"]))
    graph.node.append(helper.make_node("MatMul", ["h45", "narrow"], ["late"]))
    graph.node.append(helper.make_node("Add", ["fast", "late"], ["output"]))
    assert output.type.tensor_type.elem_type == TensorProto.FLOAT
    manifest = _renamed("slow")
    return Bundle.build(manifest, _graphs() | {INFER: model.SerializeToString()}, GOOD.weights)


def _renamed(version: str) -> Manifest:
    return msgspec.structs.replace(GOOD.manifest, version=version)


def wrong_shape() -> Bundle:
    """A model of the same name that answers with one label less than the fleet's."""
    output = GOOD.manifest.output
    fewer = msgspec.structs.replace(output, size=output.size - 1, labels=output.labels[:-1])
    manifest = msgspec.structs.replace(GOOD.manifest, version="narrow", output=fewer)
    return Bundle.build(manifest, _graphs(), GOOD.weights)


def lying_shape() -> Bundle:
    """Its manifest says what the fleet's says, and its graph answers something else."""
    model = onnx.load_model_from_string(GOOD.file(INFER))
    graph = model.graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == "output":
                node.output[index] = "whole"
    size = GOOD.manifest.output.size
    for name, value in (("from", 0), ("to", size - 1), ("axis", 1)):
        array = np.array([value], np.int64)
        graph.initializer.append(numpy_helper.from_array(array, f"cut_{name}"))
    cut = ["whole", "cut_from", "cut_to", "cut_axis"]
    graph.node.append(helper.make_node("Slice", cut, ["output"]))
    (output,) = (one for one in graph.output if one.name == "output")
    output.type.tensor_type.shape.dim[1].dim_value = size - 1
    manifest = _renamed("lying")
    return Bundle.build(manifest, _graphs() | {INFER: model.SerializeToString()}, GOOD.weights)
