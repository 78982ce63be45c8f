"""What a model expects and answers: the schemas that `sense`, `model` and `decide` agree on."""

from typing import Annotated, Literal

import msgspec

from hedgerow.core.errors import UsageError

Task = Literal["classification", "regression", "reconstruction"]
Features = Literal["raw", "spectrum"]


class InputSchema(msgspec.Struct, frozen=True, kw_only=True):
    """From samples to one model input.

    A window is `window` consecutive samples of all `channels` at `rate_hz`; the next one starts
    `hop` samples later. Features turn a window `[channels, window]` into the array the model takes,
    whose shape without the batch is `shape`. `mean` and `scale` (one per channel) standardise:
    `(x - mean) / scale`; empty means leave as is. `per_window` takes mean and scale from the window
    itself instead.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate_hz: float
    window: int
    hop: int
    shape: tuple[int, ...]
    features: Features = "raw"
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    per_window: bool = False

    def __post_init__(self) -> None:
        if not self.channels or len(self.units) != len(self.channels):
            raise UsageError(
                f"input schema has {len(self.channels)} channels and {len(self.units)} units; "
                "name at least one channel and one unit for each"
            )
        if self.rate_hz <= 0 or self.window < 1 or not 1 <= self.hop <= self.window:
            raise UsageError(
                f"input schema has rate {self.rate_hz} Hz, window {self.window}, hop {self.hop}; "
                "wanted rate > 0, window ≥ 1 and 1 ≤ hop ≤ window"
            )
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if values and len(values) != len(self.channels):
                raise UsageError(
                    f"input schema has {len(values)} values of {name} for "
                    f"{len(self.channels)} channels; give one for each, or none"
                )
        if any(value <= 0 for value in self.scale):
            raise UsageError(f"input schema has scale {self.scale}; every scale must be above 0")


class OutputSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What the model answers: `size` numbers; for classification one logit for each of `labels`.

    `bias` names the tensor of the layout that is added to the output last, so that adding to it
    adds the same to the output; empty if the model has none.
    """

    task: Task
    size: int
    labels: tuple[str, ...] = ()
    bias: str = ""

    def __post_init__(self) -> None:
        if self.task == "classification" and len(self.labels) != self.size:
            raise UsageError(f"output schema has {len(self.labels)} labels for {self.size} logits")


class LocalPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device trains in one round.

    `epochs` may be a fraction (0.5 trains on half of the data). `rate` is the learning rate,
    `momentum` the heavy-ball factor of local SGD (zeroed at the start of every round), `pull` the
    strength that holds the weights to the anchor (FedProx's μ), `gradient_norm_max` clips each
    step's gradient (0: not at all), `augment` names the transforms of `hedgerow.sense.augment`,
    `average_last` returns the mean of the weights over that last fraction of the steps, `calibrate`
    trains with that many times the logarithm of the device's own label frequencies added to the
    logits, so that what it learns does not lean to the labels it happens to hold.
    """

    epochs: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 16
    rate: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.05
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    pull: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    gradient_norm_max: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    augment: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...],
        msgspec.Meta(max_length=16),
    ] = ()
    average_last: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    calibrate: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
