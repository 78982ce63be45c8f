"""What all algorithms have in common, for each of the catalogue."""

import math
from typing import get_args

import msgspec
import numpy as np
import pytest

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import Algorithm, Schedule, Weighting
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.algorithms.fedopt import Adaptive
from hedgerow.algorithms.fedrep import FedRep
from hedgerow.algorithms.ifca import Ifca
from hedgerow.algorithms.reach import effective_steps
from hedgerow.algorithms.terms import mean_in_group, pack_model, term_size, unpack_model
from hedgerow.core.fixed import to_fixed, weight_to_fixed
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import LocalPlan
from hedgerow.model.passes import Pass
from hedgerow.model.widths import leading_blocks
from tests.algorithms import plain
from tests.algorithms.fleet import PLAN, Fleet, vector

ALL: tuple[type[Algorithm], ...] = get_args(AnyAlgorithm)
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def test_the_gradient_by_hand_is_the_slope() -> None:
    (x, y), w = plain.data()[0], plain.weights().astype(np.float64)
    slopes = [
        (plain.loss_of(w + h, x, y) - plain.loss_of(w - h, x, y)) / 2e-6 for h in 1e-6 * np.eye(17)
    ]
    np.testing.assert_allclose(plain.gradient(w, x, y), slopes, atol=1e-8)


@every
def test_settings_go_through_json_by_name_and_refuse_what_they_do_not_know(
    kind: type[Algorithm],
) -> None:
    data = msgspec.json.encode(kind())
    assert msgspec.json.decode(data, type=AnyAlgorithm) == kind()
    plain_form = msgspec.json.decode(data)
    assert plain_form["name"] == kind.__struct_config__.tag
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**plain_form, "no such setting": 1}, AnyAlgorithm)


@every
def test_one_at_a_time_or_many_at_once_gives_the_same_bits(kind: type[Algorithm]) -> None:
    single, many = (Fleet(kind(), batch=batch).rounds() for batch in (1, 3))
    for name, part in single.server.model.items():
        assert part.tobytes() == many.server.model[name].tobytes(), name
        assert part.dtype == np.float32
    assert single.kept.keys() == many.kept.keys()
    for client, kept in single.kept.items():
        for name, row in kept.items():
            assert row.tobytes() == many.kept[client][name].tobytes()


@every
def test_private_tensors_and_a_pull_change_nothing_about_that(kind: type[Algorithm]) -> None:
    if kind is Ifca:
        return  # it refuses private tensors; see its own tests
    algorithm = kind() if kind is not FedRep else FedRep(private=("body.",))
    plan = msgspec.structs.replace(PLAN, pull=0.3, momentum=0.5)
    single, many = (
        Fleet(algorithm, plan=plan, batch=batch, private=("head.bias",)).rounds()
        for batch in (1, 3)
    )
    assert pack_model(single.server).tobytes() == pack_model(many.server).tobytes()
    for client, row in single.behind.items():
        assert row.tobytes() == many.behind[client].tobytes()
    assert single.behind[0].tobytes() != single.behind[1].tobytes()


@every
def test_the_model_is_packed_weights_first_and_unpacked_again(kind: type[Algorithm]) -> None:
    algorithm = kind()
    server = Fleet(algorithm).rounds(plain.ROUNDS[:2]).server
    assert next(iter(server.model)) == "weights"
    back = unpack_model(algorithm, pack_model(server), 17)
    assert list(back) == ["weights", *algorithm.brings]
    for name, part in server.model.items():
        assert np.array_equal(part, back[name])
    with pytest.raises(ValueError, match="a model of 3 numbers"):
        unpack_model(algorithm, np.zeros(3, np.float32), 17)


@every
def test_a_round_without_a_step_moves_nothing_and_makes_no_nan(kind: type[Algorithm]) -> None:
    """A device that is interrupted at once still answers; so does one whose rate is 0."""
    for plan in (msgspec.structs.replace(PLAN, rate=0.0), LocalPlan(epochs=1e-3, rate=0.1)):
        fleet = Fleet(kind(), plan=plan)
        before = fleet.server
        after = fleet.round([0, 1, 2])
        for name, part in after.model.items():
            np.testing.assert_array_equal(part, before.model[name])
        assert all(np.isfinite(part).all() for part in after.kept.values())


@every
def test_it_learns(kind: type[Algorithm]) -> None:
    bold = {"alpha": 0.3, "share": 0.5}
    named = {name: value for name, value in bold.items() if name in kind.__struct_fields__}
    algorithm = msgspec.structs.replace(kind(), **named)
    if isinstance(algorithm, Adaptive):
        algorithm = msgspec.structs.replace(algorithm, rate=0.05)
    fleet = Fleet(algorithm, plan=msgspec.structs.replace(PLAN, epochs=4, rate=0.2))

    def loss() -> float:
        return sum(
            plain.loss_of(fleet.serving(k).astype(np.float64), *client) * len(client[0])
            for k, client in enumerate(fleet.clients)
        )

    before = loss()
    fleet.rounds([[0, 1, 2, 3]] * 7)
    assert loss() < 0.9 * before


def test_a_device_is_pulled_to_its_own_centre_though_the_anchor_is_shared() -> None:
    plan = msgspec.structs.replace(PLAN, pull=2.0)
    fleet = Fleet(FedAvg(), plan=plan, batch=2, private=("head.bias",))
    fleet.behind = {0: vector(1, 2, 3), 1: vector(4, 5, 6)}
    fleet.round([0, 1])
    (ask,) = fleet.asked
    assert isinstance(ask, Pass) and ask.anchor is not None and ask.shift is not None
    assert ask.anchor[14:].tolist() == [0, 0, 0]
    assert ask.shift[:, 14:].tolist() == [[-2, -4, -6], [-8, -10, -12]]  # −pull · centre
    assert not ask.shift[:, :14].any()


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        (LocalPlan(), [0, 1, 2, 4]),
        # v = 1, 1.5, 1.75, 1.875; a is their running sum
        (LocalPlan(momentum=0.5), [0, 1, 2.5, 6.125]),
        # a ← a + 1 − 0.5·a: 1, 1.5, 1.75, 1.875
        (LocalPlan(pull=5, rate=0.1), [0, 1, 1.5, 1.875]),
        # the last half: of 1 step the first, of 2 the second, of 4 the third and fourth
        (LocalPlan(average_last=0.5), [0, 1, 2, 3.5]),
    ],
)
def test_effective_steps_by_hand(plan: LocalPlan, wanted: list[float]) -> None:
    assert effective_steps(plan, np.array([0, 1, 2, 4])).tolist() == pytest.approx(wanted)


def test_effective_steps_are_how_far_a_constant_gradient_goes() -> None:
    plan = LocalPlan(momentum=0.9, rate=0.05, pull=1.5)
    w, v, at = 3.0, 0.0, []
    for _ in range(40):
        v = 0.9 * v + 0.7 + 1.5 * (w - 3.0)
        w -= 0.05 * v
        at.append((3.0 - w) / (0.05 * 0.7))
    got = effective_steps(plan, np.arange(1, 41))
    np.testing.assert_allclose(got, at, rtol=1e-9)


@pytest.mark.parametrize(
    ("index", "rate"),
    [(0, 0.1), (1, 0.01 + 0.09 * 0.853553), (2, 0.055), (4, 0.01), (9, 0.01)],
)
def test_the_local_rate_falls_along_half_a_cosine(index: int, rate: float) -> None:
    algorithm = FedAvg(schedule=Schedule(kind="cosine", end=0.1))
    plan = algorithm.plan_of_round(LocalPlan(rate=0.1, epochs=2), index, 5)
    assert plan.rate == pytest.approx(rate, rel=1e-5)
    assert plan.epochs == 2


def test_no_schedule_ends_at_a_rate_of_zero() -> None:
    """No learner takes it: the last round would fail on every device."""
    for end in (0, 1e-5):
        with pytest.raises(msgspec.ValidationError, match="end"):
            msgspec.convert({"kind": "cosine", "end": end}, Schedule)


def test_the_plan_stays_where_there_is_no_end_to_fall_to() -> None:
    plan = LocalPlan(rate=0.1)
    assert FedAvg().plan_of_round(plan, 3, 5) == plan
    for rounds in (0, 1):
        falling = FedAvg(schedule=Schedule(kind="cosine"))
        assert falling.plan_of_round(plan, 3, rounds) == plan


@pytest.mark.parametrize(
    ("samples", "weight"),
    [(1, 1 / 1024), (512, 0.5), (1024, 1.0), (65536, 64.0), (65537, 64.0), (2**53, 64.0)],
)
def test_a_thousand_samples_weigh_one_and_claims_are_capped(samples: int, weight: float) -> None:
    assert Weighting().of(samples, 0, math.nan) == weight
    assert Weighting(by="equal").of(samples, 0, math.nan) == 1.0


def test_old_updates_count_less_and_badly_served_devices_more() -> None:
    assert Weighting().of(1024, 3, 1.0) == 0.5  # (1 + 3)^−0.5
    assert Weighting(staleness_power=2).of(2048, 1, 1.0) == 0.5
    fair = Weighting(loss_power=2)
    assert fair.of(1024, 0, 1.999) == pytest.approx(4.0)
    assert fair.of(1024, 0, 0.0) == pytest.approx(2.0**-16)  # 10⁻⁶ would be too little
    assert fair.of(1024, 0, 1e9) == pytest.approx(64.0)  # a loss counts for at most 10
    assert fair.of(1024, 0, math.nan) == 1.0


def test_a_weight_is_never_zero() -> None:
    assert Weighting(staleness_power=10).of(1, 10_000, 0.0) == 2.0**-16


def test_the_mean_of_a_part_is_spread_over_the_whole() -> None:
    whole = Layout((TensorSpec("a", (2, 3)), TensorSpec("b", (2,))))
    part = leading_blocks(whole, Layout((TensorSpec("a", (1, 2)), TensorSpec("b", (1,)))))
    assert part.index.tolist() == [0, 1, 6]
    assert term_size(FedAvg(), part.layout) == 3
    total = ExactSum(3)
    for values, weight in (([1, 2, 3], 1.0), ([4, 5, 6], 2.0)):
        total.add(to_fixed(vector(*values), weight), weight_to_fixed(weight))
    mean = mean_in_group(FedAvg(), whole, total, part)
    assert mean.vectors["delta"].tolist() == [3, 4, 0, 0, 0, 0, 5, 0]
    assert mean.covers is not None
    assert mean.covers.tolist() == [True, True, False, False, False, False, True, False]
    assert (mean.weight, mean.terms) == (3.0, 2)
