"""What cannot be compiled is refused before anything is written, with what to do instead."""

import dataclasses
import re

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from torch import Tensor, nn

from hedgerow.author import check, export, load_spec
from hedgerow.author.export import output_bias
from hedgerow.author.spec import Spec
from hedgerow.core.errors import UsageError
from hedgerow.core.schema import LocalPlan
from hedgerow.core.streams import keys_of
from hedgerow.model.learner import Learner, Samples
from hedgerow.model.passes import Pass
from tests.author.modules import Compiled, spec_of


class Strange(nn.Module):
    """Sorts, which has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).sort(-1).values  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            spec_of(nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Flatten()), (2, 4), 12),
            r"layer '1' is BatchNorm1d: .*use nn.GroupNorm",
        ),
        (spec_of(nn.LSTM(3, 4), (5, 3), 20), "only nn.GRU is compiled"),
        (spec_of(nn.Linear(4, 5), (4,), 3), re.escape("(2, 4) to (2, 5); wanted (2, 3)")),
        (spec_of(nn.Linear(4, 3), (4,), 3, private=("head.",)), "fits no parameter"),
        (spec_of(Strange(), (4,), 4), "sort.* no rule"),
    ],
)
def test_refused_in_words(spec: Spec, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        export(spec)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module:spec", "cannot load"),
        ("math", "cannot load"),
        ("builtins:dict", "returned dict; wanted a hedgerow.author.Spec"),
    ],
)
def test_a_factory_that_is_none(reference: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_spec(reference)


def test_private_tensors_come_last_and_are_marked(compiled: Compiled) -> None:
    _, bundle = compiled("dense")
    layout = bundle.manifest.layout
    assert [tensor.name for tensor in layout.tensors if not tensor.shared] == ["5.weight", "5.bias"]
    assert layout.shared_size == layout.size - (8 * 4 + 4)


def test_check_refuses_another_model(compiled: Compiled) -> None:
    _, bundle = compiled("dense")
    spec, _ = compiled("conv1d")
    with pytest.raises(UsageError, match="other parameters"):
        check(bundle, spec, np.random.default_rng(0))


def test_check_notices_a_wrong_graph(compiled: Compiled) -> None:
    """The same parameters around another activation: everything fits but the numbers."""
    _, bundle = compiled("regression")
    other = spec_of(
        nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2)), (5,), 2, "regression"
    )
    assert not check(bundle, other, np.random.default_rng(0)).agrees


def test_compiling_twice_gives_the_same_bundle(compiled: Compiled) -> None:
    spec, bundle = compiled("regression")
    assert export(spec).hash == bundle.hash


def test_a_reconstruction_learns_without_targets(compiled: Compiled) -> None:
    spec, bundle = compiled("reconstruction")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 2, 6), np.float32)
    plan = replace(spec.plan, epochs=40, rate=0.2)
    learner = Learner(bundle)

    def loss(plan: LocalPlan) -> float:
        ask = Pass(bundle.weights[None], plan)
        return float(learner.run(ask, [Samples(x, None)], keys_of(0, (), np.arange(1))).loss[0])

    assert loss(plan) < 0.9 * loss(replace(plan, epochs=1))


def test_the_bias_behind_the_output_is_found(compiled: Compiled) -> None:
    found = {
        name: compiled(name)[1].manifest.output.bias
        for name in ("dense", "conv1d", "regression", "tokens")
    }
    assert found == {
        "dense": "5.bias",
        "conv1d": "8.bias",
        "regression": "2.bias",
        "tokens": "head.bias",
    }


def test_a_bias_that_is_none_is_refused_and_none_is_found_where_there_is_none() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3, bias=False))
    spec = spec_of(module, (4,), 3)
    assert output_bias(spec, spec.prepared()) == ""
    named = msgspec.structs.replace(spec.output, bias="0.bias")
    wrong = dataclasses.replace(spec, output=named)
    with pytest.raises(UsageError, match=r"names the bias '0.bias', but adding to it"):
        output_bias(wrong, wrong.prepared())
