"""What is known of a device before it is asked to take part."""

from __future__ import annotations

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A device that is present. None stands for what it did not tell or nobody knows.

    What was learned in earlier rounds (`loss` to `times_picked`) is read from the memory
    unless it is given here. `battery` is its charge from 0 to 1, `data_age_seconds` the age of its
    newest training sample, `link_bytes_per_second` what its up-link carried last.

    `labels` counts its training samples by class. It is the one field that says what a device's
    data is about; no device sends it unless its owner allows that, and only `fedlecc` reads it.
    """

    id: str
    samples: int = 0
    loss: float | None = None
    loss_squared_mean: float | None = None
    train_seconds: float | None = None
    last_round: int | None = None
    times_picked: int | None = None
    battery: float | None = None
    on_power: bool | None = None
    metered: bool | None = None
    data_age_seconds: float | None = None
    link_bytes_per_second: float | None = None
    labels: tuple[float, ...] | None = None
