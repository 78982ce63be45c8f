"""What an agent tells the world about one window: a decision, whose it is and what it rests on."""

import msgspec


class Notice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision about one machine, as actuators, the console and the outbox see it.

    `stream` names the machine or sensor. `confidence` is the number decided on (see `Decision`).
    `score` is how far from normal the window is (1: at the threshold), NaN where nothing scores.
    `drift` is a drift detector's statistic over its own limit (1: drift), NaN where none runs.
    `changed`: another label held before this window. `alert`: a person should look.
    """

    stream: str
    time_seconds: float
    label: str
    confidence: float
    reason: str
    changed: bool
    decided: bool = True
    alert: bool = False
    score: float = float("nan")
    drift: float = float("nan")
    model: str = ""
    """Name and version of the model that answered, such as "watch 1.2"."""
