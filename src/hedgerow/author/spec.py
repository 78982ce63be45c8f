"""What an author states about a model, and what can be compiled."""

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hedgerow.core.errors import UsageError
from hedgerow.core.layout import Layout, TensorSpec
from hedgerow.core.schema import InputSchema, LocalPlan, OutputSchema

_REFUSED: dict[type[nn.Module], str] = {
    nn.modules.batchnorm._BatchNorm: "it keeps running statistics, which a flat vector of "
    "parameters does not carry and federated averaging spoils; use nn.GroupNorm or nn.LayerNorm",
    nn.LSTM: "only nn.GRU is compiled; use that",
    nn.RNN: "only nn.GRU is compiled; use that",
}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A model to compile.

    `module` maps float32 `[B, *input.shape]` to `[B, output.size]` (for reconstruction any shape
    with as many elements as the input, and `output.size` is their number). A module of tokens
    takes them as floats and calls `.long()`. Parameters whose name starts with one of `private`
    stay on the device. `calibration` is a sample `[n, *input.shape]` of real inputs for int8.
    Dropout is compiled away: what a bundle computes is a function of its inputs. For devices that
    cannot afford it all, `build(width)` makes the module with that share of its channels, and the
    bundle gets a form for each of `widths` (`hedgerow.author.widths`). `evaluation`: inputs held
    out, and for a classifier their labels, that int8 is measured on.
    """

    name: str
    version: str
    module: nn.Module
    input: InputSchema
    output: OutputSchema
    plan: LocalPlan = LocalPlan()
    private: tuple[str, ...] = ()
    decide: dict[str, float] = field(default_factory=dict)
    calibration: NDArray[np.float32] | None = None
    evaluation: tuple[NDArray[np.float32], NDArray[np.int64] | None] | None = None
    build: Callable[[float], nn.Module] | None = None
    widths: tuple[float, ...] = ()

    def prepared(self) -> nn.Module:
        """A copy of the module with dropout off, fit to be traced.

        Raises:
            UsageError: a layer cannot be compiled, or the module's output does not fit.
        """
        module = copy.deepcopy(self.module).float().cpu().train()
        for path, layer in module.named_modules():
            for kind, why in _REFUSED.items():
                if isinstance(layer, kind):
                    raise UsageError(f"layer {path or 'module'!r} is {type(layer).__name__}: {why}")
            if isinstance(layer, _DROPOUTS):
                layer.eval()
            if isinstance(layer, (nn.MultiheadAttention, nn.GRU)):
                layer.dropout = 0.0
        with torch.no_grad():
            out = module(torch.zeros(2, *self.input.shape))
        if out.shape[0] != 2 or out.numel() != 2 * self.output.size:
            raise UsageError(
                f"the module maps {(2, *self.input.shape)} to {tuple(out.shape)}; "
                f"wanted (2, {self.output.size})"
            )
        return module

    def layout(self) -> Layout:
        """The parameters in the order of the flat vector: shared first, private last."""
        tensors = [
            TensorSpec(name, tuple(tensor.shape), not name.startswith(self.private))
            for name, tensor in self.module.named_parameters()
        ]
        for prefix in self.private:
            if not any(tensor.name.startswith(prefix) for tensor in tensors):
                names = [tensor.name for tensor in tensors]
                raise UsageError(f"private prefix {prefix!r} fits no parameter of {names}")
        return Layout(tuple(sorted(tensors, key=lambda tensor: not tensor.shared)))


def load_spec(reference: str) -> Spec:
    """Call the factory named `module:function`; the current directory is searched too.

    Raises:
        UsageError: it cannot be imported, or does not return a `Spec`.
    """
    name, _, attribute = reference.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Callable[[], object] = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot load {reference!r}: {error}; give it as package.module:function"
        ) from error
    spec = factory()
    if not isinstance(spec, Spec):
        raise UsageError(
            f"{reference} returned {type(spec).__name__}; wanted a hedgerow.author.Spec"
        )
    return spec
