"""Which precision and which execution provider a model runs with, and why not another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.model import choice, session
from hedgerow.model.bundle import INFER_INT8, Bundle
from hedgerow.model.precision import Int8Evidence, compare
from hedgerow.model.predictor import Predictor
from hedgerow.model.providers import CPU, Provider, chosen, survey
from hedgerow.model.quantise import digest
from hedgerow.model.running import TEST_ROWS, Choice, Tried

Array = NDArray[np.float32]


def windows(bundle: Bundle, count: int) -> Array:
    rng = np.random.default_rng(8)
    return rng.standard_normal((count, *bundle.manifest.input.shape), np.float32)


def other_weights(bundle: Bundle) -> Vector:
    """What no export has measured, with answers that are seldom close to one another."""
    weights = bundle.weights.copy()
    weights[bundle.manifest.layout.slices["head.bias"]] += np.array([3, 0, 0, 0, 0, 0, 0])
    return weights


def said(predictor: Predictor, what: str) -> Tried:
    (found,) = [each for each in predictor.choice.tried if each.what == what]
    return found


# int8 ---------------------------------------------------------------------------------------------


def evidence(**changes: Any) -> Int8Evidence:
    usual = Int8Evidence(measure="accuracy", windows=500, float32=0.95, int8=0.945, margin=0.01)
    return replace(usual, **changes)


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (evidence(), True),
        (evidence(int8=0.97), True),
        (evidence(int8=0.9), False),
        (evidence(windows=20), False),
        (evidence(measure="agreement", float32=1.0, int8=0.99, margin=0.02), True),
        (evidence(measure="agreement", float32=1.0, int8=0.97, margin=0.02), False),
        (evidence(measure="error", float32=0.0, int8=0.03, margin=0.05), True),
        (evidence(measure="error", float32=0.0, int8=0.3, margin=0.05), False),
    ],
)
def test_what_counts_as_holding(found: Int8Evidence, holds: bool) -> None:
    assert found.holds is holds


def test_comparing_by_hand() -> None:
    exact = np.array([[2, 1], [0, 1], [3, 0], [0, 5]], np.float32)
    small = np.array([[2, 1], [1, 0], [3, 0], [0, 5]], np.float32)
    agreement = compare(exact, small, "classification")
    assert (agreement.measure, agreement.int8, agreement.windows) == ("agreement", 0.75, 4)
    labels = np.array([0, 0, 0, 0])
    accuracy = compare(exact, small, "classification", labels)
    assert (accuracy.float32, accuracy.int8) == (0.5, 0.75)
    error = compare(exact, exact + np.float32(0.5), "regression")
    assert error.int8 == pytest.approx(0.5 / exact.std())
    broken = compare(exact, exact * np.float32(np.nan), "reconstruction")
    assert not replace(broken, windows=500).holds
    with pytest.raises(UsageError, match="one shape"):
        compare(exact, small[:2], "classification")


def test_without_evidence_it_stays_with_float32(bundle: Bundle) -> None:
    predictor = Predictor(bundle, precision="auto")
    assert predictor.precision == "float32"
    assert "0 windows to try it on" in said(predictor, "int8").reason
    few = Predictor(bundle, precision="auto", calibration=windows(bundle, 10))
    assert few.precision == "float32" and "10 windows" in said(few, "int8").reason


def test_windows_of_its_own_show_that_int8_holds(bundle: Bundle) -> None:
    x = windows(bundle, 128)
    predictor = Predictor(bundle, weights=other_weights(bundle), precision="auto", calibration=x)
    assert predictor.precision == "int8"
    assert said(predictor, "int8").taken and "agreement" in said(predictor, "int8").reason
    by_hand = Predictor(bundle, weights=other_weights(bundle), precision="int8", calibration=x)
    assert np.array_equal(predictor(x), by_hand(x))


def test_what_the_author_found_counts_for_the_weights_it_was_found_with(bundle: Bundle) -> None:
    assert bundle.manifest.int8 is UNSET
    shipped = Bundle(replace(bundle.manifest, int8=evidence()), bundle.files, bundle.weights)
    assert bundle.manifest.ranges_weights == digest(bundle.weights)
    assert Predictor(shipped, precision="auto").precision == "int8"
    learned = Predictor(shipped, weights=other_weights(bundle), precision="auto")
    assert learned.precision == "float32"
    bad = Bundle(replace(bundle.manifest, int8=evidence(int8=0.5)), bundle.files, bundle.weights)
    with_windows = Predictor(bad, precision="auto", calibration=windows(bundle, 128))
    assert with_windows.precision == "float32"
    assert "did not hold at export: accuracy 0.500" in said(with_windows, "int8").reason


def test_weights_that_int8_spoils_stay_in_float32(bundle: Bundle) -> None:
    """One window a thousand times the others: their answers fall into one step of the grid."""
    x = windows(bundle, 128)
    x[0] *= 1000
    weights = bundle.weights * np.float32(1.01)
    predictor = Predictor(bundle, weights=weights, precision="auto", calibration=x)
    assert predictor.precision == "float32"
    assert "agreement 0." in said(predictor, "int8").reason


def ticking(*seconds: float) -> Callable[[], float]:
    """A clock by which calls take these times in turn."""

    def times() -> Iterator[float]:
        now = 0.0
        while True:
            for each in seconds:
                yield now
                now += each
                yield now

    return times().__next__


def test_int8_that_is_slower_is_not_taken(bundle: Bundle) -> None:
    x, weights = windows(bundle, 128), other_weights(bundle)
    slow = Predictor(
        bundle, weights=weights, precision="auto", calibration=x, clock=ticking(40e-6, 58e-6)
    )
    assert slow.precision == "float32"
    assert "58 µs in place of 40" in said(slow, "int8").reason
    fast = Predictor(
        bundle, weights=weights, precision="auto", calibration=x, clock=ticking(40e-6, 20e-6)
    )
    assert fast.precision == "int8"
    assert said(fast, "int8").microseconds == pytest.approx(20)


def test_a_bundle_without_int8_runs_in_float32(bundle: Bundle) -> None:
    files = {name: data for name, data in bundle.files.items() if name != INFER_INT8}
    bare = Bundle(bundle.manifest, files, bundle.weights)
    assert Predictor(bare, precision="auto").precision == "float32"
    with pytest.raises(UsageError, match="precision is 'int4'"):
        Predictor(bundle, precision="int4")


# Providers ----------------------------------------------------------------------------------------

FAKE = Provider(name="fake", kind="FakeExecutionProvider", tolerance=1e-3)


@dataclass
class FakeSession:
    """Answers what the real one does, changed."""

    real: Any
    change: Callable[[Array], Array]

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        return [self.change(self.real.run(names, inputs)[0])]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Array], Array]], None]:
    """Puts a provider before the processor that changes the processor's answers."""

    def install(change: Callable[[Array], Array]) -> None:
        real = session.open_session

        def open_session(graph: bytes, **given: Any) -> Any:
            if given.pop("provider", CPU) is CPU:
                return real(graph, **given)
            return FakeSession(real(graph, **given), change)

        monkeypatch.setattr(choice, "open_session", open_session)
        monkeypatch.setattr(choice, "chosen", lambda asked: (FAKE, CPU))

    return install


def chosen_with(bundle: Bundle, clock: Callable[[], float] | None = None) -> Choice:
    tensors = dict(bundle.manifest.layout.unflatten(bundle.weights))
    asked = choice.Asked(providers=("auto",), clock=clock)
    return choice.choose(bundle, bundle.weights, tensors, None, asked)  # type: ignore[arg-type]


def crash(answers: Array) -> Array:
    raise RuntimeError("no such device")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y * np.float32(1.01), "differ from the processor's by 0.01"),
        (lambda y: y * np.float32(np.nan), "differ from the processor's by nan"),
        (lambda y: y[:, :-1], "differ from the processor's by inf"),
        (crash, "did not start: no answer: no such device"),
    ],
)
def test_a_provider_that_answers_wrongly_gives_way_to_the_processor(
    bundle: Bundle, fake: Callable[..., None], change: Callable[[Array], Array], words: str
) -> None:
    fake(change)
    found = chosen_with(bundle)
    assert found.provider == "cpu"
    assert [each.taken for each in found.tried] == [False, True]
    assert words in found.tried[0].reason
    assert "fake not taken" in found.reasons and "cpu: always there" in found.reasons


def test_a_provider_is_taken_that_answers_rightly_and_is_no_slower(
    bundle: Bundle, fake: Callable[..., None]
) -> None:
    fake(lambda y: y + np.float32(1e-6))
    assert chosen_with(bundle).provider == "fake"
    assert chosen_with(bundle, ticking(50e-6, 20e-6)).provider == "fake"
    slower = chosen_with(bundle, ticking(20e-6, 50e-6))
    assert slower.provider == "cpu"
    assert f"50 µs in place of 20 for {TEST_ROWS} windows" in slower.tried[0].reason


def test_the_processor_is_last_and_always_there() -> None:
    assert chosen(("auto",))[-1] is CPU
    assert [each.name for each in chosen(("cpu",))] == ["cpu"]
    (cpu,) = [each for each in survey() if each.provider is CPU]
    assert cpu.here and "built into ONNX Runtime" in cpu.reason
    away = [each for each in survey() if not each.here]
    assert away and all(each.reason for each in away)


def test_a_provider_asked_for_by_name_must_be_there(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="wanted auto, or some of"):
        Predictor(bundle, providers=("abacus",))
    with pytest.raises(UsageError, match=r"coreml: not in ONNX Runtime .* install onnxruntime"):
        Predictor(bundle, providers=("coreml", "cpu"))


def test_large_batches_answer_as_small_ones(bundle: Bundle) -> None:
    predictor, x = Predictor(bundle), windows(bundle, 150)
    whole = predictor(x)
    assert whole.shape == (150, 7)
    parts = np.concatenate([predictor(x[first : first + 10]) for first in range(0, 150, 10)])
    assert np.allclose(whole, parts, atol=1e-6)
    predictor.row[...] = x[3]
    assert np.allclose(predictor.answer(), whole[3], atol=1e-6)
