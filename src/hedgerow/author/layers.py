"""Layers rewritten so that one graph trains any number of clients.

What is written here and in `sliding` is made of slices, padding, reshapes and products only,
because the derivative of those is made of the same. Where autograd would make more of it than there
is to do, the derivative is written out.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hedgerow.author import sliding
from hedgerow.core.errors import UsageError


class Rewritten(TorchFunctionMode):
    """While active, the functions in `table` are computed by their replacement there.

    Within a function of `torch.nn.functional` that is not in the table the mode rests, so attention
    inside `multi_head_attention_forward` is replaced by its name in that module.
    """

    def __init__(self, table: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._table = table
        self._native = F.scaled_dot_product_attention

    def __enter__(self) -> "Rewritten":
        F.scaled_dot_product_attention = self._table.get(self._native, self._native)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        F.scaled_dot_product_attention = self._native
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


def _group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    channels = x.shape[1]
    weight = torch.ones(channels) if weight is None else weight
    bias = torch.zeros(channels) if bias is None else bias
    spread = x.unsqueeze(-1) if x.dim() == 2 else x
    space = spread.dim() - 2
    scales = [tensor.reshape(-1, *[1] * space) for tensor in (weight, bias)]
    if num_groups > 1:  # one group needs no reshaping, which would cost a copy
        spread = torch.unflatten(spread, 1, (num_groups, -1))
        scales = [torch.unflatten(tensor, 0, (num_groups, -1)) for tensor in scales]
    out: Tensor = _Normal.apply(spread, *scales, space, eps)[0]  # type: ignore[no-untyped-call]
    return out.reshape(x.shape) if out.shape != x.shape else out


class _Normal(torch.autograd.Function):
    """Group norm and its derivative with as few passes over the data as it takes.

    `x [B, (G,) C, *space]`, `weight` and `bias` `[(G,) C, *1]`. Sums over space serve the gradients
    of weight and bias and, summed on over channels, that of the input.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, space: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and for the derivative the centred input and the reciprocal deviation."""
        dims = tuple(range(-space - 1, 0))
        centred = x - x.mean(dims, keepdim=True)
        factor = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
        return centred * (weight * factor) + bias, centred, factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """What the derivative needs."""
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(inputs[1], *output[1:])
        ctx.space = inputs[3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, weight and bias."""
        weight, centred, factor = ctx.saved_tensors
        over_space = tuple(range(-ctx.space, 0))
        sums = gradient.sum(over_space, keepdim=True)
        products = (gradient * centred).sum(over_space, keepdim=True) * factor
        share = factor / math.prod(centred.shape[-ctx.space - 1 :])
        level, slope = (
            (part * weight).sum(-ctx.space - 1, keepdim=True) * share for part in (sums, products)
        )
        by_input = gradient * (weight * factor) - (centred * (slope * factor) + level)
        return by_input, products.sum(0), sums.sum(0), None, None


def _layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    out = centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def _embedding(x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """By product with one-hot rows: the derivative is a product too, not a scatter."""
    hot = (x.unsqueeze(-1) == torch.arange(weight.shape[0])).to(weight.dtype)
    return hot @ weight


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        raise UsageError("scaled_dot_product_attention with enable_gqa is not compiled")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros(attn_mask.shape).masked_fill(~attn_mask, -math.inf)
    if attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


def _gru(
    x: Tensor,
    hidden: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """Unrolled over time, which is static."""
    if batch_first:
        x = x.transpose(0, 1)
    directions, each = 1 + bidirectional, 4 if has_biases else 2
    lasts = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            tensors = list(weights[index * each : (index + 1) * each])
            steps, last = _gru_pass(x, hidden[index], tensors, reverse=direction == 1)
            outputs.append(steps)
            lasts.append(last)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
    return (x.transpose(0, 1) if batch_first else x), torch.stack(lasts)


def _gru_pass(
    x: Tensor, h: Tensor, weights: list[Tensor], *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """One layer, one way: `x [T, B, I]`, `h [B, H]` → outputs `[T, B, H]`, the last `[B, H]`."""
    inner, across = weights[0], weights[1].transpose(0, 1)
    from_input = x @ inner.transpose(0, 1)
    if len(weights) == 4:
        from_input = from_input + weights[2]
    outputs: list[Tensor] = []
    moments = list(from_input.unbind(0))
    for moment in reversed(moments) if reverse else moments:
        from_past = h @ across
        if len(weights) == 4:
            from_past = from_past + weights[3]
        reset_x, update_x, new_x = moment.chunk(3, -1)
        reset_h, update_h, new_h = from_past.chunk(3, -1)
        update = torch.sigmoid(update_x + update_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        h = new + update * (h - new)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs), h


INFERENCE: dict[Any, Callable[..., Any]] = {torch.gru: _gru}
"""What inference rewrites: only what ONNX would otherwise get with a fixed batch."""

TRAINING: dict[Any, Callable[..., Any]] = {
    **INFERENCE,
    **{
        function: functools.partial(replacement, dims)
        for dims, names in ((1, "1d"), (2, "2d"))
        for replacement, functions in (
            (sliding.convolution, (getattr(F, f"conv{names}"),)),
            (
                sliding.max_pool,
                (getattr(F, f"max_pool{names}"), getattr(torch, f"max_pool{names}")),
            ),
            (sliding.avg_pool, (getattr(F, f"avg_pool{names}"),)),
            (
                sliding.adaptive_avg_pool,
                (getattr(F, f"adaptive_avg_pool{names}"),),
            ),
        )
        for function in functions
    },
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.embedding: _embedding,
    F.scaled_dot_product_attention: _attention,
    F.silu: lambda x, inplace=False: x * torch.sigmoid(x),
}
"""What training rewrites."""
