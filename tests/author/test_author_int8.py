"""What int8 costs is measured at export, and devices go by it."""

import numpy as np
import pytest
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from hedgerow.author import Spec, export
from hedgerow.core.errors import UsageError
from hedgerow.model.bundle import Bundle
from hedgerow.model.precision import Int8Evidence
from hedgerow.model.predictor import Predictor
from tests.author.modules import spec_of


def blobs(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Four clouds of points in six dimensions, one a label."""
    rng = np.random.default_rng(9)
    labels = np.arange(count) % 4
    centres = 3 * np.eye(4, 6, dtype=np.float32)
    return centres[labels] + rng.normal(0, 0.3, (count, 6)).astype(np.float32), labels


def nearest_centre(calibration: NDArray[np.float32] | None = None) -> Spec:
    """A classifier of the clouds that needs no training."""
    module = nn.Linear(6, 4)
    with torch.no_grad():
        module.weight.copy_(torch.eye(4, 6))
        module.bias.zero_()
    return spec_of(module, (6,), 4, calibration=calibration)


def found(bundle: Bundle) -> Int8Evidence:
    assert isinstance(bundle.manifest.int8, Int8Evidence)
    return bundle.manifest.int8


def test_accuracy_on_labelled_inputs_is_in_the_manifest() -> None:
    x, labels = blobs(400)
    bundle = export(nearest_centre(calibration=x[:100]), (x[100:], labels[100:]))
    evidence = found(Bundle.from_bytes(bundle.to_bytes()))
    assert (evidence.measure, evidence.windows) == ("accuracy", 300)
    assert evidence.float32 > 0.99 and evidence.holds
    assert Predictor(bundle, precision="auto").precision == "int8"


def test_without_labels_it_is_agreement_on_the_calibration_samples() -> None:
    x, _ = blobs(100)
    evidence = found(export(nearest_centre(calibration=x)))
    assert (evidence.measure, evidence.windows, evidence.float32) == ("agreement", 100, 1.0)
    assert evidence.holds


def test_of_noise_nothing_is_said() -> None:
    bundle = export(nearest_centre())
    assert bundle.manifest.int8 is UNSET
    assert b'"int8"' not in bundle.to_bytes()
    assert Predictor(bundle, precision="auto").precision == "float32"


def test_a_reconstruction_is_measured_by_its_error() -> None:
    torch.manual_seed(3)
    x, _ = blobs(200)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6))
    evidence = found(export(spec_of(module, (6,), 6, "reconstruction", calibration=x)))
    assert evidence.measure == "error"
    assert 0 < evidence.int8 < 0.05 and evidence.holds


def test_where_it_does_not_hold_devices_stay_with_float32() -> None:
    """One sample spreads the grid so far that all others fall into one step of it."""
    x, labels = blobs(400)
    calibration = np.concatenate([x[:100], np.full((1, 6), 5000, np.float32)])
    bundle = export(nearest_centre(calibration=calibration), (x, labels))
    evidence = found(bundle)
    assert evidence.float32 > 0.99 and evidence.int8 < 0.9 and not evidence.holds
    predictor = Predictor(bundle, precision="auto", calibration=x[:100])
    assert predictor.precision == "float32"
    assert "did not hold at export" in predictor.choice.reasons


def test_an_evaluation_that_does_not_fit_is_refused() -> None:
    x, labels = blobs(80)
    for wrong in ((x[:, :5], labels), (x, labels[:7])):
        with pytest.raises(UsageError, match="evaluation has inputs"):
            export(nearest_centre(), wrong)
