"""Layers rewritten so that one graph trains any number of clients.

Under `vmap` every client has its own kernels. A convolution would become a grouped one, whose
number of groups ONNX fixes at export; as patches and a matrix product it takes any K and B. What
is written here is made of slices, padding, reshapes and products only, because the derivative of
those is made of the same.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hedgerow.core.errors import UsageError

_Ints = int | Sequence[int]


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


def _many(value: _Ints, count: int) -> list[int]:
    return (
        [value] * count
        if isinstance(value, int)
        else [int(v) for v in value] * (count if len(value) == 1 else 1)
    )


def _taps(x: Tensor, dim: int, kernel: int, stride: int, dilation: int) -> list[Tensor]:
    """For each place in the kernel, what the kernel sees there along `dim` (negative)."""
    length = x.shape[dim]
    out = (length - dilation * (kernel - 1) - 1) // stride + 1
    phases: Sequence[Tensor] = [x]
    if stride > 1:
        missing = -length % stride
        if missing:
            x = F.pad(x, [0, 0] * (-dim - 1) + [0, missing])
        blocks = ((length + missing) // stride, stride)
        phases = torch.unflatten(x, dim, blocks).unbind(dim)
    taps = []
    for place in range(kernel):
        start, phase = divmod(place * dilation, stride)
        tap = phases[phase]
        # Unbinding the last of two dimensions leaves the blocks at `dim` again.
        taps.append(tap if tap.shape[dim] == out else tap.narrow(dim, start, out))
    return taps


def _patches(x: Tensor, kernel: list[int], stride: list[int], dilation: list[int]) -> list[Tensor]:
    """The taps of all places of the kernel, rows before columns."""
    taps = [x]
    for index, size in enumerate(kernel):
        dim = index - len(kernel)
        taps = [
            inner for tap in taps for inner in _taps(tap, dim, size, stride[index], dilation[index])
        ]
    return taps


def _pads(padding: str | _Ints, kernel: list[int], dilation: list[int]) -> list[int]:
    """For `F.pad`: before and after, the last dimension first."""
    count = len(kernel)
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(side, side) for side in _many(padding, count)]
    return [amount for side in reversed(sides) for amount in side]


class _SideBySide(torch.autograd.Function):
    """What a kernel sees at each of its places along the last dimension but one, as channels.

    Positions and channels lie one after another in memory, so `stride` positions are one longer
    position, and few large pieces are moved where taking each tap alone moves many small ones.
    """

    @staticmethod
    def forward(x: Tensor, kernel: int, stride: int, before: int, after: int) -> Tensor:
        """`[…, L, C]`, padded by `before` and `after` → `[…, L', kernel · C]`."""
        length, channels = x.shape[-2:]
        out, widths = _pieces(length + before + after, channels, kernel, stride)
        blocks = out + len(widths) - 1
        x = F.pad(x, [0, 0, before, blocks * stride - length - before])
        x = x.reshape(*x.shape[:-2], blocks, stride * channels)
        taps = [x.narrow(-1, 0, width).narrow(-2, at, out) for at, width in enumerate(widths)]
        return torch.cat(taps, -1) if len(taps) > 1 else taps[0].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """What the derivative needs."""
        x, ctx.kernel, ctx.stride, ctx.before, ctx.after = inputs
        ctx.size = x.shape[-2:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x: each piece goes back to where it came from."""
        length, channels = ctx.size
        total = length + ctx.before + ctx.after
        out, widths = _pieces(total, channels, ctx.kernel, ctx.stride)
        last, wide = len(widths) - 1, ctx.stride * channels
        parts = [
            F.pad(part, [0, wide - width, at, last - at])
            for at, (part, width) in enumerate(
                zip(torch.split(gradient, widths, -1), widths, strict=True)
            )
        ]
        joined = functools.reduce(torch.add, parts)
        joined = joined.reshape(*joined.shape[:-2], (out + last) * ctx.stride, channels)
        after = length + ctx.before - joined.shape[-2]
        return F.pad(joined, [0, 0, -ctx.before, after]), None, None, None, None


def _pieces(length: int, channels: int, kernel: int, stride: int) -> tuple[int, list[int]]:
    """Places of the kernel, and how many of `stride · channels` each of its pieces takes."""
    starts = range(0, kernel, stride)
    widths = [min(stride, kernel - start) * channels for start in starts]
    return (length - kernel) // stride + 1, widths


def _convolution(
    dims: int,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Ints = 1,
    padding: str | _Ints = 0,
    dilation: _Ints = 1,
    groups: int = 1,
) -> Tensor:
    """`x [B, C, *L]`, `weight [O, C/groups, *kernel]` → `[B, O, *L']`, in memory channels last."""
    kernel = [int(size) for size in weight.shape[2:]]
    strides, dilations = _many(stride, dims), _many(dilation, dims)
    pads = _pads(padding, kernel, dilations)
    columns = x.movedim(1, -1)
    if dilations[-1] == 1:
        step = kernel[-1], strides[-1], *pads[:2]
        columns = _SideBySide.apply(columns, *step)  # type: ignore[no-untyped-call]
        pads, left = [0, 0, *pads[2:]], dims - 1
    else:
        left = dims
    if any(pads):
        columns = F.pad(columns, [0, 0, *pads])
    for index in reversed(range(left)):
        taps = _taps(columns, index - dims - 1, kernel[index], strides[index], dilations[index])
        columns = torch.cat(taps, -1)
    places, outputs = math.prod(kernel), len(weight)
    kernels = weight.movedim(1, -1)
    rows = columns.shape[:-1]
    if groups == 1:
        out = columns.reshape(-1, columns.shape[-1]) @ kernels.flatten(1).T
    else:
        parts = columns.reshape(-1, places, groups, weight.shape[1]).permute(2, 0, 1, 3)
        each = kernels.reshape(groups, outputs // groups, -1).transpose(1, 2)
        out = parts.reshape(groups, -1, places * weight.shape[1]) @ each
        out = out.transpose(0, 1).reshape(-1, outputs)
    out = out.reshape(*rows, outputs)
    if bias is not None:
        out = out + bias
    return out.movedim(-1, 1)


def _max_pool(
    dims: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    dilation: _Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if ceil_mode or return_indices:
        raise UsageError("max pooling with ceil_mode or return_indices is not compiled; leave them")
    kernel = _many(kernel_size, dims)
    strides = _many(stride, dims) if stride else kernel
    pads = _pads(padding, kernel, [1] * dims)
    if any(pads):
        x = F.pad(x, pads, value=-math.inf)
    taps = _patches(x, kernel, strides, _many(dilation, dims))
    largest: Tensor = _Largest.apply(*taps)  # type: ignore[no-untyped-call]
    return largest


class _Largest(torch.autograd.Function):
    """The largest of several tensors; the first of equals gets the gradient, as in PyTorch.

    By products, since ONNX Runtime chooses between a tensor and zero many times slower.
    """

    @staticmethod
    def forward(*taps: Tensor) -> Tensor:
        """Of tensors of one shape."""
        return functools.reduce(torch.maximum, taps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """What the derivative needs."""
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Each tap takes what those before it left."""
        largest, *taps = ctx.saved_tensors
        shares = []
        for tap in taps[:-1]:
            share = gradient * (tap == largest).to(gradient.dtype)
            gradient = gradient - share
            shares.append(share)
        return (*shares, gradient)


def _averaging(length: int, starts: list[int], stops: list[int], counts: list[int]) -> Tensor:
    """`[length, out]`: column j averages the inputs from `starts[j]` to `stops[j]`."""
    # A plain list: a trace forgets what is written into a part of a tensor.
    columns = [
        [1.0 / count if start <= row < stop else 0.0 for row in range(length)]
        for start, stop, count in zip(starts, stops, counts, strict=True)
    ]
    return torch.tensor(columns).T


def _apply_averaging(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply each of the trailing dimensions of `x` by its matrix."""
    x = x @ matrices[-1]
    if len(matrices) == 2:
        x = matrices[0].T @ x
    return x


def _avg_pool(
    dims: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    if ceil_mode or divisor_override is not None:
        raise UsageError("average pooling with ceil_mode or divisor_override is not compiled")
    kernel = _many(kernel_size, dims)
    strides = _many(stride, dims) if stride else kernel
    matrices = []
    for size, step, pad, length in zip(
        kernel, strides, _many(padding, dims), x.shape[-dims:], strict=True
    ):
        starts = list(range(-pad, length + pad - size + 1, step))
        stops = [start + size for start in starts]
        inside = [
            min(stop, length) - max(start, 0) for start, stop in zip(starts, stops, strict=True)
        ]
        counts = [size] * len(starts) if count_include_pad else inside
        matrices.append(_averaging(length, starts, stops, counts))
    return _apply_averaging(x, matrices)


def _adaptive_avg_pool(dims: int, x: Tensor, output_size: Any) -> Tensor:
    wanted = _many(output_size, dims) if isinstance(output_size, int) else list(output_size)
    sizes = list(x.shape[-dims:])
    targets = [size if want is None else want for size, want in zip(sizes, wanted, strict=True)]
    if all(target == 1 for target in targets):
        return x.mean(tuple(range(-dims, 0)), keepdim=True)
    matrices = []
    for length, target in zip(sizes, targets, strict=True):
        starts = [index * length // target for index in range(target)]
        stops = [-(-(index + 1) * length // target) for index in range(target)]
        counts = [stop - start for start, stop in zip(starts, stops, strict=True)]
        matrices.append(_averaging(length, starts, stops, counts))
    return _apply_averaging(x, matrices)


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
            (_convolution, (getattr(F, f"conv{names}"),)),
            (_max_pool, (getattr(F, f"max_pool{names}"), getattr(torch, f"max_pool{names}"))),
            (_avg_pool, (getattr(F, f"avg_pool{names}"),)),
            (
                _adaptive_avg_pool,
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
