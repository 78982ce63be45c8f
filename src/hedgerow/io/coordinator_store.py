"""signatures only for now"""
from __future__ import annotations

from dataclasses import dataclass

import contextlib


@dataclass(frozen=True)
class DeviceRow:
    id: str
    name: str
    enrolled_at: float
    revoked: bool


@dataclass(frozen=True)
class RoundRow:
    number: int
    state: str
    cohort: tuple[str, ...]
    model_sha256: str
    first_sequence: int
    opened_at: float
    closed_at: float | None = None
    outcome: str | None = None
    metrics: dict[str, float] | None = None


@dataclass(frozen=True)
class ModelRow:
    version: int
    sha256: str
    round: int
    created_at: float


class CoordinatorStore:
    """SQLite by default (`sqlite:////path/file.db`), PostgreSQL by URL (`postgresql+psycopg://…`)."""

    def __init__(self, url: str) -> None: ...
    def close(self) -> None: ...
    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """All writes inside take effect together or not at all. May nest."""
    def add_device(self, device: DeviceRow) -> bool:
        """False when it was enrolled already (nothing changes)."""
    def device(self, device_id: str) -> DeviceRow | None: ...
    def devices(self) -> list[DeviceRow]:
        """By time of enrolment."""
    def set_revoked(self, device_id: str, revoked: bool) -> bool: ...
    def put_round(self, round_: RoundRow) -> None:
        """Insert or replace the round of that number."""
    def round(self, number: int) -> RoundRow | None: ...
    def last_round(self) -> RoundRow | None: ...
    def rounds(self, limit: int = 100) -> list[RoundRow]:
        """Newest first."""
    def add_model(self, model: ModelRow, weights: bytes) -> None:
        """Idempotent for the same version and hash; UsageError for another hash under a version."""
    def model(self, version: int) -> ModelRow | None: ...
    def last_model(self) -> ModelRow | None: ...
    def model_weights(self, version: int) -> bytes | None: ...
    def forget_weights(self, before_version: int) -> int:
        """Free the bytes of old versions; their rows stay."""
    def fact(self, key: str) -> bytes | None: ...
    def set_fact(self, key: str, value: bytes | None) -> None: ...
