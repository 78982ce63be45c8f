"""One bundle with two widths: each computes what its own module computes."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hedgerow.author import Scaler, Spec, check, export
from hedgerow.author.widths import narrower
from hedgerow.core.errors import PeerError, UsageError
from hedgerow.model.bundle import MANIFEST, Bundle
from hedgerow.model.learner import Learner
from hedgerow.model.predictor import Predictor
from tests.author.modules import Recurrent, spec_of
from tests.model.test_model_bundle import archive_of, entries_of

WIDTHS = (0.5,)


class Wide(nn.Module):
    """A convolution, normalised; mean and maximum, interleaved; a hidden layer, scaled."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels, hidden = round(8 * width), round(12 * width)
        self.first = nn.Conv1d(2, channels, 3, stride=2)
        self.norm = nn.GroupNorm(1, channels)
        self.second = nn.Linear(2 * channels, hidden)
        self.scale = Scaler(width)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.stack([x.mean(2), x.amax(2)], 2).flatten(1)
        out: Tensor = self.head(torch.relu(self.scale(self.second(x))))
        return out


@pytest.fixture(scope="module")
def made() -> tuple[Spec, Bundle]:
    torch.manual_seed(3)
    spec = spec_of(Wide(1.0), (2, 16), 3, build=Wide, widths=WIDTHS)
    return spec, export(spec)


@pytest.mark.parametrize("number", [0, 1])
def test_each_width_agrees_with_its_own_module(made: tuple[Spec, Bundle], number: int) -> None:
    spec, bundle = made
    part = bundle.at_width(number)
    width = (1.0, *WIDTHS)[number]
    narrow = replace(spec, module=Wide(width), build=None, widths=())
    agreement = check(part, narrow, np.random.default_rng(0))
    assert agreement.agrees, agreement
    assert np.array_equal(part.weights, bundle.weights[bundle.parts[number].index])


def test_a_narrow_layer_is_the_first_channels_of_the_whole(made: tuple[Spec, Bundle]) -> None:
    """Worked out from the whole model's tensors in NumPy and PyTorch's functions."""
    _, bundle = made
    part, whole = bundle.at_width(1), bundle.manifest.layout.unflatten(bundle.weights)
    x = np.random.default_rng(1).standard_normal((4, 2, 16), np.float32)
    tensors = {name: torch.tensor(array) for name, array in whole.items()}
    h = nn.functional.conv1d(
        torch.tensor(x), tensors["first.weight"][:4], tensors["first.bias"][:4], stride=2
    )
    h = nn.functional.group_norm(h, 1, tensors["norm.weight"][:4], tensors["norm.bias"][:4])
    h = torch.relu(h)
    pairs = torch.stack([h.mean(2), h.amax(2)], 2).flatten(1)
    h = pairs @ tensors["second.weight"][:6, :8].T + tensors["second.bias"][:6]
    h = torch.relu(h / 0.5) @ tensors["head.weight"][:, :6].T + tensors["head.bias"]
    np.testing.assert_allclose(Predictor(part)(x), h.numpy(), atol=1e-5)


def test_widths_survive_the_file_and_new_weights(made: tuple[Spec, Bundle], tmp_path: Path) -> None:
    _, bundle = made
    again = Bundle.from_bytes(bundle.to_bytes())
    assert [len(part.index) for part in again.parts] == [len(part.index) for part in bundle.parts]
    assert again.at_width(1).hash == bundle.at_width(1).hash
    bundle.unpack(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").hash == bundle.hash
    other = bundle.with_weights(bundle.weights + np.float32(1), "2").at_width(1)
    assert np.array_equal(other.weights, bundle.at_width(1).weights + 1)
    Learner(other)


def test_a_bundle_without_widths_says_nothing_of_them(made: tuple[Spec, Bundle]) -> None:
    part = made[1].at_width(1)
    assert len(part.parts) == 1 and part.at_width(0) is part
    assert b"widths" not in entries_of(part)[MANIFEST]
    with pytest.raises(UsageError, match="not 1"):
        part.at_width(1)


def test_widths_that_do_not_fit_their_files_are_refused(made: tuple[Spec, Bundle]) -> None:
    entries = entries_of(made[1])
    missing = {name: data for name, data in entries.items() if name != "train.0.5.onnx"}
    with pytest.raises(PeerError, match=r"train\.0\.5\.onnx"):
        Bundle.from_bytes(archive_of(missing))
    for change in ({"width": 1.5}, {"layout": {"tensors": [{"name": "x", "shape": [1]}]}}):
        manifest = msgspec.json.decode(entries[MANIFEST])
        manifest["widths"][0] |= change
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        with pytest.raises(PeerError):
            Bundle.from_bytes(archive_of(entries | {MANIFEST: data}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (0.25, 0.5)}, "widest first"),
        ({"widths": (1.0,)}, "between 0 and 1"),
        ({"widths": (1 / 3,)}, "four decimals"),
        ({"build": None}, "without `build`"),
        ({"build": lambda width: nn.Linear(2, 3)}, "does not fit"),
        ({"module": Recurrent()}, "is GRU"),
    ],
)
def test_widths_that_cannot_be_are_refused(
    made: tuple[Spec, Bundle], changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        narrower(replace(made[0], **changes))  # type: ignore[arg-type]
