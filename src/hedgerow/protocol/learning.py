"""What a round's learning is, whoever carries it out: the fleet and the simulator share it.

A device's vectors become payloads (`Form.encode`) and vectors again (`Form.decode`); they become
one integer term (`Shape.term_of`); terms are summed by group (`Sums`); and the sums and the
server's state become the next state (`next_server`), of which `pack_model` makes what devices
download. All of it is pure; any shell, or engine, calls it with updates in any order.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hedgerow.aggregate.mean import ExactSum
from hedgerow.algorithms.base import FIGURE_MAX, Algorithm, Server
from hedgerow.algorithms.resource_aware import ResourceAware
from hedgerow.algorithms.terms import joined, mean_in_group
from hedgerow.core.errors import PeerError, UsageError
from hedgerow.core.fixed import Fixed, to_fixed, weight_to_fixed
from hedgerow.core.layout import Layout, Vector
from hedgerow.model.widths import Submodel
from hedgerow.seal.codec import Codec, decode, encode_with_residual


@functools.lru_cache(maxsize=4096)
def seed_of(seed: int, *names: str | int) -> int:
    """A seed of its own for every name, from 0 to 2⁵³; both ends derive the same one."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")


@dataclass(frozen=True)
class Form:
    """What the updates of one algorithm look like, for one model.

    `size` elements of each of `algorithm.sends` travel: those of `mask [S]`, or all (None).
    `shapes` are their tensors, where whole ones travel.
    """

    algorithm: Algorithm
    layout: Layout
    size: int
    mask: NDArray[np.bool_] | None
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, algorithm: Algorithm, layout: Layout) -> Form:
        """Worked out once, as it is the same for every update."""
        mask = algorithm.travels(layout)
        size = layout.shared_size if mask is None else int(mask.sum())
        whole: list[tuple[int, ...]] = []
        for tensor in layout.tensors:
            if not tensor.shared:
                break
            part = np.ones(1) if mask is None else mask[layout.slices[tensor.name]]
            if part.all():
                whole.append(tensor.shape)
            elif part.any():
                return cls(algorithm, layout, size, mask, ())
        return cls(algorithm, layout, size, mask, tuple(whole))

    def encode(
        self,
        sends: Mapping[str, Vector],
        codec: Codec,
        seed: int,
        device: str,
        residuals: Mapping[str, Vector],
    ) -> tuple[tuple[bytes, ...], dict[str, Vector]]:
        """One device's vectors `[S]` as payloads, and what they lost by name, to be kept.

        `seed` is the offer's; `residuals` are what the last payloads lost, where there were any.
        """
        payloads, lost = [], {}
        for name in self.algorithm.sends:
            vector = sends[name] if self.mask is None else sends[name][self.mask]
            before = residuals.get(name)
            if before is None or before.shape != vector.shape:
                before = np.zeros_like(vector)
            data, residual = encode_with_residual(
                codec, vector, before, seed_of(seed, "up", device, name), self.shapes
            )
            payloads.append(data)
            if codec.feedback:
                lost[name] = residual
        return tuple(payloads), lost

    def decode(
        self, payloads: Sequence[bytes], codec: Codec, seed: int, device: str
    ) -> list[Vector]:
        """The travelling elements of each vector, `[size]`.

        Raises:
            PeerError: `wrong_shape`, another number of payloads than the algorithm's vectors;
                `bad_payload`, one is not what the codec makes.
        """
        wanted = self.algorithm.sends
        if len(payloads) != len(wanted):
            raise PeerError(
                "wrong_shape", f"{len(payloads)} payloads came, wanted {len(wanted)}: {wanted}"
            )
        return [
            decode(codec, data, self.size, seed_of(seed, "up", device, name), self.shapes)
            for name, data in zip(wanted, payloads, strict=True)
        ]


class Shape:
    """The forms of all groups of an algorithm, for one model: what both ends must agree on.

    `parts` are the bundle's widths, the whole model left out; only an algorithm whose groups are
    widths asks for them.
    """

    def __init__(
        self, algorithm: Algorithm, layout: Layout, parts: Sequence[Submodel] = ()
    ) -> None:
        self.algorithm, self.layout = algorithm, layout
        self.parts = tuple(parts) if isinstance(algorithm, ResourceAware) else ()
        self._forms = [
            Form.of(algorithm, layout),
            *(Form.of(algorithm, part.layout) for part in self.parts),
        ]

    def form(self, group: int) -> Form:
        """How updates of that group look.

        Raises:
            PeerError: there is no such group (`wrong_group`).
        """
        if group >= self.algorithm.groups or (self.parts and group >= len(self._forms)):
            raise PeerError("wrong_group", f"group {group} came of {self.algorithm.groups}")
        return self._forms[group if self.parts else 0]

    def part(self, group: int) -> Submodel | None:
        """The part of the model that a group trains; None: all of it."""
        return self.parts[group - 1] if self.parts and group else None

    def term_of(
        self,
        vectors: Sequence[Vector],
        figures: Sequence[float],
        samples: int,
        staleness: int,
        loss: float,
    ) -> tuple[Fixed, int]:
        """One update as the term and the weight that are summed.

        `vectors` are the travelling elements of each of `algorithm.sends`, `figures` in the order
        of `algorithm.figures`; `loss` may be NaN where it is not known.

        Raises:
            PeerError: `wrong_shape`, `not_finite` or `out_of_range`.
        """
        wanted = self.algorithm.figures
        if len(figures) != len(wanted):
            raise PeerError("wrong_shape", f"{len(figures)} figures came, wanted {wanted}")
        if not all(map(math.isfinite, figures)):
            raise PeerError("not_finite", "a figure is not finite")
        if any(abs(figure) > FIGURE_MAX for figure in figures):
            raise PeerError("out_of_range", f"a figure is beyond {FIGURE_MAX:.0f}: {figures}")
        weight = self.algorithm.weighting.of(samples, staleness, loss)
        return to_fixed(joined(vectors, figures), weight), weight_to_fixed(weight)


class Sums:
    """The exact sums of one round, one for each group that somebody counted in."""

    def __init__(self) -> None:
        self.groups: dict[int, ExactSum] = {}

    def add(self, term: Fixed, weight: int, group: int = 0) -> None:
        """Count in one update, already weighted; both in fixed point."""
        self._of(group, len(term)).add(term, weight)

    def merge(self, other: Sums) -> None:
        """Add what another worker, or an edge server, summed."""
        for group, part in other.groups.items():
            self._of(group, len(part.total)).merge(part)

    @property
    def terms(self) -> int:
        """Updates counted, over all groups."""
        return sum(part.terms for part in self.groups.values())

    def digest(self) -> str:
        """SHA-256 of all: the same updates give the same digest, whatever their order."""
        if list(self.groups) == [0]:
            return self.groups[0].digest()
        text = "".join(f"{group} {self.groups[group].digest()}\n" for group in sorted(self.groups))
        return hashlib.sha256(text.encode()).hexdigest()

    def _of(self, group: int, size: int) -> ExactSum:
        if group not in self.groups:
            self.groups[group] = ExactSum(size)
        return self.groups[group]


def next_server(shape: Shape, server: Server, sums: Sums, fleet: int) -> Server:
    """The server's state after a round with these sums; `fleet` devices exist.

    Raises:
        UsageError: nothing was counted.
    """
    if not sums.terms:
        raise UsageError("a round without updates was to be closed; count at least one first")
    means = {
        group: mean_in_group(shape.algorithm, shape.layout, part, shape.part(group))
        for group, part in sorted(sums.groups.items())
        if part.terms  # all of a group's updates may have been left out: not finite, say
    }
    return shape.algorithm.server(server, means, fleet)


def fitted(algorithm: Algorithm, weights: Vector, old: Mapping[str, NDArray[np.float32]]) -> Server:
    """The state to go on from: `old` vectors, by `model/…` and `kept/…`, where they fit.

    What the algorithm does not know, or knows in another shape, is dropped, and what it lacks
    begins as `algorithm.begin(weights)` has it.
    """
    new = algorithm.begin(weights)

    def filled(
        kind: str, wanted: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        return {
            name: old[f"{kind}/{name}"]
            if f"{kind}/{name}" in old and old[f"{kind}/{name}"].shape == part.shape
            else part
            for name, part in wanted.items()
        }

    return Server(filled("model", new.model), filled("kept", new.kept))


def named(server: Server) -> dict[str, NDArray[np.float32]]:
    """All vectors of a state by the names that `fitted` reads."""
    return {
        **{f"model/{name}": part for name, part in server.model.items()},
        **{f"kept/{name}": part for name, part in server.kept.items()},
    }
