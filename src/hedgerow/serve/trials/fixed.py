"""A model against the one in use on windows that are all there: one look, one test."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import HedgerowError
from hedgerow.decide.sequential import sign_test
from hedgerow.serve.trials.checking import Unsound, answers_fit
from hedgerow.serve.trials.judging import losses
from hedgerow.serve.trials.models import OpenShadow, Serving, in_process

Array = NDArray[np.float32]
Values = NDArray[np.float64]
ERROR = 0.01
"""Chance that a model which is no worse is left out."""


class Verdict(NamedTuple):
    """Whether a model may serve, and why; its mean loss on the windows, if there were any."""

    taken: bool
    why: str
    loss: float | None = None


class FixedSample:
    """Judges models that come one after the other; the answers of the last ones are remembered."""

    def __init__(self, open_shadow: OpenShadow, margin: float) -> None:
        """`margin` is the loss from 0 to 1 by which rounds may differ, up and down."""
        self._open, self._margin = open_shadow, margin
        self._known: list[tuple[Array, Array, Values]] = []
        """Windows, weights and losses of the last two models."""

    async def verdict(
        self, model: Serving, active: Serving, given: Array, labels: NDArray[np.int64]
    ) -> Verdict:
        """What the windows `given [n, *shape]` say of it; `labels [n]` are −1 where unknown.

        It is left out if its mean loss is larger by more than the margin, and it is worse on more
        windows than it is better on by more than chance explains (`sign_test`, at `ERROR`).

        Raises:
            Unsound: it cannot run, or answers with the wrong shape, NaN or infinity.
        """
        mine = await self._losses(model, active, given, labels)
        try:
            usual = await self._losses(active, active, given, labels)
        except Unsound:
            return Verdict(True, "sound, and the model in use is not")
        differ = mine - usual
        differ = differ[np.isfinite(differ)]
        if not len(differ):
            return Verdict(True, "sound; there are no windows of known truth to compare it on")
        mean = float(mine[np.isfinite(mine)].mean())
        points = f"{100 * float(differ.mean()):+.1f} points of loss on {len(differ)} windows"
        if differ.mean() > self._margin and sign_test(differ) < ERROR:
            return Verdict(False, f"worse than the model in use: {points}", mean)
        return Verdict(True, f"not shown to be worse: {points}", mean)

    async def _losses(
        self, model: Serving, active: Serving, given: Array, labels: NDArray[np.int64]
    ) -> Values:
        for windows, weights, found in self._known:
            if windows is given and weights is model.weights:
                return found
        # Other weights in the graph that is in use can do no more harm than that one does.
        opened = in_process if model.bundle is active.bundle else self._open
        try:
            shadow = await opened(model.bundle, model.weights, model.name)
            try:
                answers = await shadow.infer(given)
            finally:
                await shadow.close()
        except HedgerowError as error:
            raise Unsound("cannot_run", f"it cannot be run: {error}") from error
        answers_fit(answers, len(given), model)
        flat = answers.reshape(len(given), -1)
        found = losses(model.bundle.manifest.output.task, given, flat, labels)
        self._known = [*self._known, (given, model.weights, found)][-2:]
        return found
