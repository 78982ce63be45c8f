"""An egress record for tests: it only remembers."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Left(NamedTuple):
    to: str
    kind: str
    purpose: str
    size: int
    digest: bytes


@dataclass
class Ledger:
    entries: list[Left] = field(default_factory=list)

    def left(self, *, to: str, kind: str, purpose: str, size: int, digest: bytes = b"") -> None:
        self.entries.append(Left(to, kind, purpose, size, digest))
