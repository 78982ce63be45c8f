"""The vibration model: an autoencoder over a window's spectrum, in deviations from a machine's own.

Its input is standardised for each machine on site (`hedgerow.decide.anomaly`), so one small model
serves all of them: what it has learned is how bands move together when load and speed change, and
what it cannot give back is how they do not. Eight numbers in the middle are enough for that.

It ships trained on 300 synthetic machines, so that it is of use from the first hour; no recording
has been used. On site it learns on.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedgerow.apps.vibration.synthetic import (
    BANDS,
    HOP,
    RATE_HZ,
    SCALE_G,
    WINDOW,
    Machine,
    vibration,
    wandering,
)
from hedgerow.author.spec import Spec
from hedgerow.core.schema import InputSchema, LocalPlan, OutputSchema
from hedgerow.core.streams import stream
from hedgerow.model.normal import Normal
from hedgerow.sense.features import features

SEED = 1
MACHINES = 300
WINDOWS = 384
BASELINE = 128
EPOCHS = 30
CALIBRATION = 512
PLAN = LocalPlan(epochs=2.0, batch=64, rate=0.05, momentum=0.9, gradient_norm_max=1.0)
SCHEMA = InputSchema(
    channels=("acceleration",),
    units=("g",),
    rate_hz=RATE_HZ,
    window=WINDOW,
    hop=HOP,
    shape=(BANDS,),
    features="spectrum",
    scale=(SCALE_G,),
)


class VibrationModel(nn.Module):
    """f32 `[B, 64]` → the same, given back from eight numbers; 5,912 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(BANDS, 40)
        self.narrow = nn.Linear(40, 8)
        self.widen = nn.Linear(8, 40)
        self.out = nn.Linear(40, BANDS)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        code = self.narrow(torch.relu(self.into(x)))
        back: Tensor = self.out(torch.relu(self.widen(code)))
        return back


def synthetic_inputs(seed: int, machines: int = MACHINES) -> NDArray[np.float32]:
    """Model inputs f32 `[n, 64]` of synthetic machines that are well."""
    parts = []
    for number in range(machines):
        rng = stream(seed, "synthetic machine", number)
        machine = Machine.drawn(rng)
        samples = vibration(machine, wandering(machine, WINDOWS, rng), rng)
        given = features(samples[:, None], SCHEMA)
        normal, row = Normal(1, BANDS), np.zeros(WINDOWS, np.int64)
        normal.learn(row[:BASELINE], given[:BASELINE])
        parts.append(normal.standardise(row[BASELINE:], given[BASELINE:]))
    return np.concatenate(parts)


def spec() -> Spec:
    """What `hedgerow model export hedgerow.apps.vibration.author_model:spec` compiles; a minute."""
    x = synthetic_inputs(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = VibrationModel()
        _train(module, torch.from_numpy(x))
        rows = torch.randperm(len(x))[:CALIBRATION].numpy()
    return Spec(
        name="vibration",
        version="1",
        module=module,
        input=SCHEMA,
        output=OutputSchema(task="reconstruction", size=BANDS),
        plan=PLAN,
        decide={"hold": 3, "margin": 0.1},
        calibration=x[rows],
    )


def _train(module: nn.Module, x: Tensor) -> None:
    optimiser = torch.optim.Adam(module.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(x)), 256):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(module(x[rows]), x[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
