"""Layers that slide over a signal or an image, written so that one graph trains any clients.

Under `vmap` every client has its own kernels. A convolution would become a grouped one, whose
number of groups ONNX fixes at export; as patches and a matrix product it takes any K and B.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hedgerow.core.errors import UsageError

_Ints = int | Sequence[int]


def convolution(
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
    left = list(range(dims))
    if dilations[-1] == 1:
        last = left.pop()
        step = kernel[last], strides[last], *pads[:2]
        columns = _SideBySide.apply(columns, *step)  # type: ignore[no-untyped-call]
        pads = [0, 0, *pads[2:]]
    if any(pads):
        columns = F.pad(columns, [0, 0, *pads])
    for index in reversed(left):
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
    if bias is not None:
        # A whole line at a time: ONNX Runtime adds short runs of a few channels slowly.
        line = bias.expand(rows[-1], outputs).reshape(-1)
        out = out.reshape(*rows[:-1], len(line)) + line
    return out.reshape(*rows, outputs).movedim(-1, 1)


def max_pool(
    dims: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    dilation: _Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """`x [B, C, *L]` → `[B, C, *L']`."""
    if ceil_mode or return_indices:
        raise UsageError("max pooling with ceil_mode or return_indices is not compiled; leave them")
    kernel = _many(kernel_size, dims)
    strides = _many(stride, dims) if stride else kernel
    pads = _pads(padding, kernel, [1] * dims)
    taps = [x.movedim(1, -1)]  # as convolutions leave it in memory
    if any(pads):
        taps = [F.pad(taps[0], [0, 0, *pads], value=-math.inf)]
    for index, step in enumerate(zip(kernel, strides, _many(dilation, dims), strict=True)):
        taps = [inner for tap in taps for inner in _taps(tap, index - dims - 1, *step)]
    largest: Tensor = _Largest.apply(*taps)  # type: ignore[no-untyped-call]
    return largest.movedim(-1, 1)


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


def avg_pool(
    dims: int,
    x: Tensor,
    kernel_size: _Ints,
    stride: _Ints | None = None,
    padding: _Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`x [B, C, *L]` → `[B, C, *L']`, as a product with a matrix for each dimension."""
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


def adaptive_avg_pool(dims: int, x: Tensor, output_size: Any) -> Tensor:
    """`x [B, C, *L]` → `[B, C, *output_size]`, as a product with a matrix for each dimension."""
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
