"""From a sample to a decision: window → features → predict → decide. Needs no network."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hedgerow.decide.decision import Decision
from hedgerow.decide.evidence import probabilities, reconstruction_error
from hedgerow.decide.rules import Band, Rule, RuleState, decide
from hedgerow.model.bundle import Bundle
from hedgerow.model.predictor import Predictor
from hedgerow.sense.features import Featuriser
from hedgerow.sense.windows import Windower


class Pipeline:
    """One sensor stream through one model. `predictor` may be replaced at any time."""

    def __init__(self, bundle: Bundle, predictor: Predictor) -> None:
        manifest = bundle.manifest
        schema = manifest.input
        self.predictor = predictor
        self._windower = Windower(schema)
        self._featurise = Featuriser(schema)
        self._task = manifest.output.task
        self._rule = (
            Rule.from_manifest(manifest)
            if self._task == "classification"
            else Band.from_manifest(manifest)
        )
        self._state = RuleState()
        self.windows = 0

    def push(self, samples: NDArray[np.float32], time_seconds: float) -> Decision | None:
        """Samples `[n, C]` in; the last decision that they led to, if a window was completed."""
        decision = None
        for window in self._windower.push(samples, time_seconds):
            self.windows += 1
            given = self._featurise(window.samples)[0]
            evidence = self._evidence(given, self.predictor.one(given))
            self._state, decision = decide(
                self._rule, self._state, evidence, window.start_seconds, window.quality
            )
        return decision

    def _evidence(self, given: NDArray[np.float32], answer: NDArray[np.float32]) -> Sequence[float]:
        """What is decided on: probabilities, the value itself, or how badly the input came back."""
        if self._task == "classification":
            return probabilities(answer)
        if self._task == "regression":
            return [float(answer[0])]
        return [reconstruction_error(given, answer)]
