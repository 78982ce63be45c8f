"""The models of `hedgerow bench simulation`, and the plain PyTorch loop it is held against.

hedgerow model export hedgerow.bench.models.author_simulation:mlp -o mlp.hedgerow
hedgerow model export hedgerow.bench.models.author_simulation:cnn2d -o cnn2d.hedgerow
"""

import torch
from torch import nn

from hedgerow.apps.watch.author_model import spec as watch
from hedgerow.author import Spec, export
from hedgerow.core.schema import InputSchema, OutputSchema
from hedgerow.io import clock
from hedgerow.model.bundle import Bundle

_SECONDS = 2.0


def mlp(features: int = 64, hidden: int = 64, classes: int = 10) -> Spec:
    """Two layers; 4,810 parameters at 64, 64 and 10."""
    layers = (nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return _spec("mlp", (features,), classes, *layers)


def cnn2d() -> Spec:
    """f32 `[B, 1, 28, 28]` → logits `[B, 10]`; 46,730 parameters."""
    return _spec(
        "cnn2d",
        (1, 28, 28),
        10,
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def compiled(features: int, hidden: int, classes: int) -> Bundle:
    """The `mlp` of another size."""
    return export(mlp(features, hidden, classes))


def eager_updates_per_s(
    model: str, bundle: Bundle, samples: int, batch: int, threads: int
) -> float:
    """Client updates a second of a loop over clients and batches with `torch.optim.SGD`.

    Each client starts from the same weights, trains one epoch of its own order of the samples, and
    its difference is added up. No fixed point, no figures.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _eager(model, bundle, samples, batch)
    finally:
        torch.set_num_threads(before)


def _eager(model: str, bundle: Bundle, samples: int, batch: int) -> float:
    sizes = bundle.manifest.input.shape[0], 64, bundle.manifest.output.size
    if model == "mlp":
        sizes = sizes[0], bundle.manifest.layout.tensors[0].shape[0], sizes[2]
    module = {"mlp": lambda: mlp(*sizes), "cnn1d": watch, "cnn2d": cnn2d}[model]().module
    parameters = list(module.parameters())
    start = [tensor.detach().clone() for tensor in parameters]
    total = [torch.zeros_like(tensor) for tensor in parameters]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *bundle.manifest.input.shape, generator=generator)
    y = torch.randint(0, bundle.manifest.output.size, (samples,), generator=generator)

    def update() -> None:
        with torch.no_grad():
            for tensor, first in zip(parameters, start, strict=True):
                tensor.copy_(first)
        optimiser = torch.optim.SGD(parameters, lr=0.05)
        order = torch.randperm(samples, generator=generator)
        for low in range(0, samples, batch):
            rows = order[low : low + batch]
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            for tensor, first, summed in zip(parameters, start, total, strict=True):
                summed += tensor - first

    for _ in range(3):
        update()
    began, done = clock.monotonic(), 0
    while clock.monotonic() - began < _SECONDS:
        update()
        done += 1
    return done / (clock.monotonic() - began)


def _spec(name: str, shape: tuple[int, ...], classes: int, *layers: nn.Module) -> Spec:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for layer in layers:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                layer.reset_parameters()
    count = int(torch.Size(shape).numel())
    return Spec(
        name=name,
        version="1",
        module=nn.Sequential(*layers),
        input=InputSchema(
            channels=("value",), units=("1",), rate_hz=1.0, window=count, hop=count, shape=shape
        ),
        output=OutputSchema(
            task="classification", size=classes, labels=tuple(map(str, range(classes)))
        ),
    )
