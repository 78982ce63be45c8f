"""OpenVINO really runs a model: on this processor, in a guarded process.

It comes as an ONNX Runtime of its own (`make test` installs it into a folder beside the usual one);
its plugin for the usual ONNX Runtime offers no processor that is not Intel's.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from hedgerow.model.predictor import Predictor
from hedgerow.serve.apps import app_bundle
from hedgerow.serve.inference.base import InferenceSettings, ModelSpec
from hedgerow.serve.inference.guard import GuardedModel

FOLDER = Path(sys.prefix) / "openvino"
BUNDLE = app_bundle("watch")
X = np.random.default_rng(4).standard_normal((40, *BUNDLE.manifest.input.shape), np.float32)


@pytest.fixture(autouse=True)
def openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FOLDER.is_dir(), f"{FOLDER} is missing; `make test` installs onnxruntime-openvino there"
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))


def run(providers: tuple[str, ...], body: Callable[[GuardedModel], Awaitable[None]]) -> None:
    async def whole() -> None:
        model = GuardedModel(InferenceSettings(providers=providers, precision="float32"))
        try:
            await model.use(ModelSpec(BUNDLE, BUNDLE.weights, "watch"))
            await body(model)
        finally:
            await model.close()

    asyncio.run(whole())


def test_it_answers_as_the_processor_does() -> None:
    async def body(model: GuardedModel) -> None:
        found = model.status.choice
        assert found is not None and found.provider == "openvino", found
        assert found.tried[0].difference is not None
        wanted, got = Predictor(BUNDLE)(X), await model.infer(X)
        assert np.allclose(got, wanted, atol=1e-4)
        assert not np.array_equal(got, wanted)  # other kernels round otherwise
        assert np.allclose(model.one(X[0]), wanted[0], atol=1e-4)

    run(("openvino",), body)


def test_by_itself_it_is_tried_and_what_came_of_it_is_said() -> None:
    async def body(model: GuardedModel) -> None:
        found = model.status.choice
        assert found is not None
        tried = {each.what: each for each in found.tried}
        assert tried["openvino"].difference is not None
        assert tried["openvino"].difference < 1e-4
        assert tried["openvino"].taken == (found.provider == "openvino")
        if found.provider == "cpu":
            assert "slower than the processor" in tried["openvino"].reason
        assert np.allclose(await model.infer(X), Predictor(BUNDLE)(X), atol=1e-4)

    run(("auto",), body)


ALL_ON_OPENVINO = """
import numpy as np, onnxruntime as ort
from hedgerow.model.bundle import INFER
from hedgerow.serve.apps import app_bundle

bundle = app_bundle("watch")
tensors = bundle.manifest.layout.unflatten(bundle.weights)
options = ort.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # an error, if any is left
kept = [ort.OrtValue.ortvalue_from_numpy(array) for array in tensors.values()]
options.add_external_initializers(list(tensors), kept)
session = ort.InferenceSession(
    bundle.file(INFER), options, providers=["OpenVINOExecutionProvider"], enable_fallback=0
)
x = np.zeros((1, *bundle.manifest.input.shape), np.float32)
assert np.isfinite(session.run(None, {"x": x})[0]).all()
print(ort.__file__)
"""


def test_no_operator_of_the_model_is_left_to_the_processor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALL_ON_OPENVINO], check=True, capture_output=True, text=True
    )
    assert str(FOLDER) in done.stdout
