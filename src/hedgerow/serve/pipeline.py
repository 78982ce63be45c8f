"""From a sample to a decision: window → features → predict → decide. Needs no network."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.decide.decision import Decision
from hedgerow.decide.evidence import probabilities, reconstruction_error
from hedgerow.decide.rules import Band, Rule, RuleState, decide
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.sense.features import Featuriser
from hedgerow.sense.windows import Window, Windower

Array = NDArray[np.float32]


class Pipeline:
    """One sensor stream through one model. `predictor` may be replaced at any time.

    `keep` gets every window as it is decided on: what it does takes part of the time to a decision,
    so it should only put the window somewhere.
    """

    def __init__(
        self, bundle: Bundle, predictor: Predictor, keep: Callable[[Window], None] | None = None
    ) -> None:
        manifest = bundle.manifest
        schema = manifest.input
        self._windower = Windower(schema)
        self._featurise = Featuriser(schema)
        self._table = len(schema.channels), self._featurise.columns
        classifies = manifest.output.task == "classification"
        self._rule = (Rule if classifies else Band).from_manifest(manifest)
        # What is decided on: probabilities, the value itself, or how badly the input came back.
        self._evidence: Callable[[Array], Sequence[float]] = {
            "classification": probabilities,
            "regression": _value,
            "reconstruction": self._reconstruction,
        }[manifest.output.task]
        self._state = RuleState()
        self._keep = keep
        self.windows = 0
        self.predictor = predictor

    @property
    def predictor(self) -> Predictor:
        """The model in use."""
        return self._predictor

    @predictor.setter
    def predictor(self, predictor: Predictor) -> None:
        self._predictor = predictor
        # Features are written where the model reads them.
        self._row = predictor.row.reshape(self._table)
        self._answer = predictor.answer

    def push(self, samples: Array, time_seconds: float) -> Decision | None:
        """Samples `[n, C]` in; the last decision that they led to, if a window was completed."""
        decision = None
        for window in self._windower.push(samples, time_seconds):
            self.windows += 1
            self._featurise.into(window.samples, self._row)
            evidence = self._evidence(self._answer())
            self._state, decision = decide(
                self._rule, self._state, evidence, window.start_seconds, window.quality
            )
            if self._keep is not None:
                self._keep(window)
        return decision

    def _reconstruction(self, answer: Array) -> Sequence[float]:
        return [reconstruction_error(self._predictor.row, answer)]


def _value(answer: Array) -> Sequence[float]:
    return [float(answer[0])]
