"""Topics of Sparkplug B (Sparkplug 3.0.0, section 4)."""

from __future__ import annotations

from typing import Final, NamedTuple

NAMESPACE: Final = "spBv1.0"
BD_SEQ: Final = "bdSeq"
REBIRTH: Final = "Node Control/Rebirth"


class Topic(NamedTuple):
    """`kind` is NBIRTH, NDEATH, NDATA, NCMD, DBIRTH, DDEATH, DDATA or DCMD.

    `device` is empty where the message is the node's own.
    """

    group: str
    kind: str
    node: str
    device: str = ""

    def text(self) -> str:
        """As it is published to."""
        ending = f"/{self.device}" if self.device else ""
        return f"{NAMESPACE}/{self.group}/{self.kind}/{self.node}{ending}"


KINDS: Final = frozenset(
    f"{who}{what}" for who in "ND" for what in ("BIRTH", "DEATH", "DATA", "CMD")
)


def parse(text: str) -> Topic | None:
    """The topic in `text`, or None where it is no message of a node or a device."""
    levels = text.split("/")
    if len(levels) not in (4, 5) or levels[0] != NAMESPACE or levels[2] not in KINDS:
        return None
    if (levels[2][0] == "D") != (len(levels) == 5) or not all(levels):
        return None
    return Topic(*levels[1:])


def state(host: str) -> str:
    """Where the host application `host` says whether it is there."""
    return f"{NAMESPACE}/STATE/{host}"
