"""The fleet as it is shown: plain data for the terminal, the web page and `--json`."""

import msgspec


class DeviceView(msgspec.Struct, kw_only=True):
    """One device on the page. Bytes are since its start; `accuracy` is on its own held-out data."""

    id: str
    name: str
    online: bool = False
    phase: str = "away"
    """away, present, invited, training, counted, declined or refused"""
    model_version: int = 0
    samples: int = 0
    label: str = ""
    confidence: float = 0.0
    reason: str = ""
    accuracy: float | None = None
    accuracy_personalised: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_kept: int = 0


class RoundView(msgspec.Struct, kw_only=True):
    """One finished round."""

    round: int
    seconds: float
    counted: int
    update_bytes: int
    loss: float | None = None
    accuracy_mean: float | None = None
    accuracy_worst: float | None = None
    outcome: str = "published"


class WearerRow(msgspec.Struct, kw_only=True):
    """One row of the final table: accuracy on held-out time, from 0 to 1."""

    wearer: str
    alone_own: float
    alone_others: float
    federated: float
    personalised: float
    pooled: float


class FleetView(msgspec.Struct, kw_only=True):
    """Everything the page shows."""

    fleet: str
    app: str = ""
    phase: str = "idle"
    """idle, open, aggregating, resting, done"""
    round: int = 0
    rounds_done: int = 0
    rounds_planned: int = 0
    model_version: int = 0
    model_hash: str = ""
    parameters: int = 0
    devices_wanted: int = 1
    """A round opens when so many devices are there."""
    devices: list[DeviceView] = []
    rounds: list[RoundView] = []
    outcomes: dict[str, int] = {}
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_kept: int = 0
    seconds: float = 0.0
    table: list[WearerRow] = []
    finished: bool = False
