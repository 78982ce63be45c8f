"""What cannot be compiled is refused before anything is written, with what to do instead."""

import re

import numpy as np
import pytest
from torch import Tensor, nn

from hedgerow.author import check, export, load_spec
from hedgerow.author.spec import Spec
from hedgerow.core.errors import UsageError
from hedgerow.model.learner import Learner
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
    from msgspec.structs import replace

    plan = replace(spec.plan, epochs=40, rate=0.2)
    learner = Learner(bundle)
    start = learner.train(bundle.weights, x, None, replace(plan, epochs=1), rng).loss
    assert learner.train(bundle.weights, x, None, plan, rng).loss < 0.9 * start
