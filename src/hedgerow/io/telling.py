"""How messages to a coordinator stand in the egress record: in the words of the owner."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from hedgerow.wire.events import kind_in


class Told(NamedTuple):
    """How one message stands in the egress record; `digest` is the SHA-256 of its payload."""

    kind: str
    purpose: str
    digest: bytes


PURPOSES: Final = {
    "enrol": "asks to join the fleet",
    "check_in": "says that it is here, and what it has",
    "accept": "takes part in a round",
    "decline": "does not take part in a round",
    "update": "what it learned in a round",
    "report": "what it decides now, and figures about itself",
    "trial": "how a new model does here",
    "events": "exceptions and summaries of what it decided",
}
"""What each message to the coordinator is for, as the owner reads it."""


def told(data: bytes) -> Told:
    """A message to the coordinator as the egress record shows it: its own kind, not the link's."""
    kind = kind_in(data)
    kind = "other" if kind == "" else kind
    return Told(
        kind, PURPOSES.get(kind, "speaks to its coordinator"), hashlib.sha256(data).digest()
    )
