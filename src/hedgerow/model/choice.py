"""Which precision and which execution provider a model runs with here, found by trying.

int8 first: it is taken where it holds. Then the providers, in order: one is taken when it starts,
answers as the processor does, and is not slower than it. Whatever fails, the processor in float32
is there. What was tried, and why it was not taken, is kept in words for whoever looks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Vector
from hedgerow.core.streams import stream
from hedgerow.model.bundle import INFER, INFER_INT8, Bundle
from hedgerow.model.precision import WINDOWS_MIN, Int8Evidence, Precision, compare
from hedgerow.model.providers import CPU, Provider, chosen
from hedgerow.model.quantise import digest, int8_tensors
from hedgerow.model.running import TEST_ROWS, Choice, Tried
from hedgerow.model.session import open_session

Array = NDArray[np.float32]
Tensors = dict[str, NDArray[np.generic]]

SLOWER_MAX = 1.1
"""int8 that takes longer than this times float32 is not taken: there is nothing to gain."""
_TIMED, _WARM = 7, 2


@dataclass(frozen=True)
class Asked:
    """What a setting asks for; see `Predictor`."""

    precision: str = "float32"
    providers: tuple[str, ...] = (CPU.name,)
    threads: int = 1
    clock: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "int8"):
            raise UsageError(f"precision is {self.precision!r}; wanted auto, float32 or int8")


def choose(
    bundle: Bundle, weights: Vector, tensors: Tensors, calibration: Array | None, asked: Asked
) -> Choice:
    """What to run `weights [P]` with. `tensors` are the same by name; see `Predictor`.

    Raises:
        UsageError: a provider or int8 is asked for by name and cannot be had.
    """
    precision: Precision = "int8" if asked.precision == "int8" else "float32"
    tried: list[Tried] = []
    if asked.precision == "auto":
        fits = _int8(bundle, weights, tensors, calibration, asked)
        precision = "int8" if fits.taken else "float32"
        tried.append(fits)
    if asked.providers == (CPU.name,):
        return Choice(precision=precision, provider=CPU.name, tried=tuple(tried))
    candidates = chosen(asked.providers)
    if precision == "int8":
        tensors = int8_tensors(bundle, weights, tensors, calibration, threads=asked.threads)
    graph = bundle.file(INFER_INT8 if precision == "int8" else INFER)
    inputs = _inputs(bundle, calibration)
    cpu = open_session(graph, threads=asked.threads, tensors=tensors)
    wanted = _answers(cpu, inputs)
    for provider in candidates:
        if provider is CPU:
            break
        found = _self_test(graph, tensors, provider, cpu, inputs, wanted, asked)
        tried.append(found)
        if found.taken:
            return Choice(precision=precision, provider=provider.name, tried=tuple(tried))
    last = Tried(what=CPU.name, taken=True, reason="always there")
    return Choice(precision=precision, provider=CPU.name, tried=(*tried, last))


def _int8(
    bundle: Bundle, weights: Vector, tensors: Tensors, calibration: Array | None, asked: Asked
) -> Tried:
    """Whether int8 holds for these weights, on the word of the author or on windows of one's own.

    The author's holds for the weights it was found with. For others the answers to `calibration`
    are compared, of which half give the ranges and all are asked.
    """

    def no(reason: str) -> Tried:
        return Tried(what="int8", taken=False, reason=reason)

    if INFER_INT8 not in bundle.files:
        return no("the bundle has no int8 graph")
    shipped = bundle.manifest.int8
    if isinstance(shipped, Int8Evidence) and not shipped.holds:
        return no(f"it did not hold at export: {shipped.words}")
    if isinstance(shipped, Int8Evidence) and digest(weights) == bundle.manifest.ranges_weights:
        evidence, calibration, where = shipped, None, "at export"
    elif calibration is None or len(calibration) < WINDOWS_MIN:
        count = 0 if calibration is None else len(calibration)
        return no(f"nothing shows that it holds for these weights: {count} windows to try it on")
    else:
        where = "here"
    exact = open_session(bundle.file(INFER), threads=asked.threads, tensors=tensors)
    integers = int8_tensors(bundle, weights, tensors, calibration, threads=asked.threads)
    small = open_session(bundle.file(INFER_INT8), threads=asked.threads, tensors=integers)
    if calibration is not None:
        x = np.ascontiguousarray(calibration, np.float32)
        evidence = compare(_answers(exact, x), _answers(small, x), bundle.manifest.output.task)
    if not evidence.holds:
        return no(f"{evidence.words} {where}")
    inputs = _inputs(bundle, calibration)
    long, short = _microseconds([exact, small], inputs, asked.clock)
    if long is not None and short is not None and short > SLOWER_MAX * long:
        return Tried(
            what="int8",
            taken=False,
            reason=f"{evidence.words} {where}, but slower on this processor: {short:.0f} µs in "
            f"place of {long:.0f} for {len(inputs)} windows",
            microseconds=short,
        )
    return Tried(what="int8", taken=True, reason=f"{evidence.words} {where}", microseconds=short)


def _self_test(
    graph: bytes,
    tensors: Tensors,
    provider: Provider,
    cpu: ort.InferenceSession,
    inputs: Array,
    wanted: Array,
    asked: Asked,
) -> Tried:
    """Whether a provider starts, answers as the processor does, and is no slower."""
    try:
        session = open_session(graph, threads=asked.threads, tensors=tensors, provider=provider)
        got = _answers(session, inputs)
    except UsageError as error:
        return Tried(what=provider.name, taken=False, reason=f"did not start: {_short(error)}")
    largest = float(np.abs(wanted).max()) or 1.0
    off = float(np.abs(got - wanted).max()) / largest if got.shape == wanted.shape else np.inf
    if not off <= provider.tolerance:
        return Tried(
            what=provider.name,
            taken=False,
            reason=f"its answers differ from the processor's by {off:.2g} of the largest; at most "
            f"{provider.tolerance:g} would do",
            difference=off if np.isfinite(off) else None,
        )
    slow, fast = _microseconds([cpu, session], inputs, asked.clock)
    by_name = provider.name in asked.providers
    if slow is not None and fast is not None and fast > slow and not by_name:
        return Tried(
            what=provider.name,
            taken=False,
            reason=f"slower than the processor: {fast:.0f} µs in place of {slow:.0f} for "
            f"{len(inputs)} windows",
            difference=off,
            microseconds=fast,
        )
    return Tried(
        what=provider.name,
        taken=True,
        reason=f"its answers are the processor's within {off:.2g}",
        difference=off,
        microseconds=fast,
    )


def _inputs(bundle: Bundle, calibration: Array | None) -> Array:
    """Typical windows, or noise that is the same every time."""
    if calibration is not None and len(calibration):
        return np.ascontiguousarray(calibration[:TEST_ROWS], np.float32)
    rng = stream(0, "self-test", bundle.manifest.name)
    return rng.standard_normal((TEST_ROWS, *bundle.manifest.input.shape), np.float32)


def _answers(session: ort.InferenceSession, x: Array) -> Array:
    try:
        answers: Array = session.run(["output"], {"x": x})[0]
    except Exception as error:  # whatever a provider's library raises
        raise UsageError(f"no answer: {error}") from error
    return answers


def _microseconds(
    sessions: Sequence[ort.InferenceSession], x: Array, clock: Callable[[], float] | None
) -> list[float | None]:
    """The best of a few calls of each, turn by turn, so that a busy moment hits them alike."""
    if clock is None:
        return [None] * len(sessions)
    best = [np.inf] * len(sessions)
    for turn in range(_WARM + _TIMED):
        for place, session in enumerate(sessions):
            start = clock()
            session.run(["output"], {"x": x})
            if turn >= _WARM:
                best[place] = min(best[place], clock() - start)
    return [1e6 * seconds for seconds in best]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
