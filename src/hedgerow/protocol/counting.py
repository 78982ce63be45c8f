"""An update as a term of the sum, or the reason why it cannot be one."""

import math

from hedgerow.algorithms.selection import last_layer
from hedgerow.core.errors import PeerError
from hedgerow.protocol.asking import round_seed
from hedgerow.protocol.effects import CountIn
from hedgerow.protocol.fleet import CoordinatorState, OpenRound
from hedgerow.wire.messages import Update

CHANGES_MAX = 2**24
"""Numbers of a round's last layers that are kept until it closes: 64 MiB, whatever its size."""


def count_in(
    state: CoordinatorState, current: OpenRound, device: str, update: Update, staleness: int
) -> CountIn:
    """The update as what it adds to the open round.

    Raises:
        PeerError: it cannot be summed; `docs/messages/receipt.md` lists the reasons.
    """
    if update.samples < 1:
        raise PeerError("no_samples", "an update over no samples; wanted at least one")
    if not all(map(math.isfinite, update.metrics.values())):
        raise PeerError("not_finite", "a metric is not finite")
    if update.codec >= len(state.codecs):
        raise PeerError("wrong_codec", f"codec {update.codec} came, {len(state.codecs)} are known")
    codec, seed = state.codecs[update.codec], round_seed(state, update.round)
    vectors = state.shape.form(update.group).decode(update.payloads, codec, seed, device)
    loss = update.metrics.get("loss", math.nan)
    term, weight = state.shape.term_of(vectors, update.figures, update.samples, staleness, loss)
    if state.policy.wants_rewards and len(vectors[0]) == state.parameters:
        layer = vectors[0][last_layer(state.layout)]
        room = max(CHANGES_MAX // current.target, 1)
        current.changes[len(current.outcomes)] = layer[-room:].copy()
    return CountIn(current.number, device, term, weight, update.group)
