"""What a coordinator keeps: devices, rounds, models and small facts.

SQLite by default (`sqlite:////var/lib/hedgerow/coordinator.db`), PostgreSQL by URL
(`postgresql+psycopg://…`); the same tables and the same calls. A coordinator is one process: calls
are plain and synchronous, and take about a millisecond.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from hedgerow.core.errors import UsageError
from hedgerow.io import sqlite_file

SCHEMA_VERSION: Final = 1
ROUNDS_KEPT: Final = 1_000
"""How many of the newest rounds a coordinator keeps, with the models that came of them."""

_metadata = sa.MetaData()
_version = sa.Table("schema_version", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_devices = sa.Table(
    "devices",
    _metadata,
    sa.Column("id", sa.String(56), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("enrolled_at", sa.Double, nullable=False),
    sa.Column("revoked", sa.Boolean, nullable=False),
)
_rounds = sa.Table(
    "rounds",
    _metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cohort", sa.JSON, nullable=False),
    sa.Column("model_sha256", sa.String(64), nullable=False),
    sa.Column("first_sequence", sa.BigInteger, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double),
    sa.Column("outcome", sa.Text),
    sa.Column("metrics", sa.JSON, nullable=False),
)
_models = sa.Table(
    "models",
    _metadata,
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("weights", sa.LargeBinary),
)
_settled = sa.Table(
    "settled",
    _metadata,
    sa.Column("device", sa.String(56), primary_key=True),
    sa.Column("round", sa.BigInteger, nullable=False),
)
_facts = sa.Table(
    "facts",
    _metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
_MODEL_COLUMNS: Final = (_models.c.version, _models.c.sha256, _models.c.round, _models.c.created_at)


@dataclass(frozen=True)
class DeviceRow:
    """An enrolled device. Times are Unix seconds."""

    id: str
    name: str
    enrolled_at: float
    revoked: bool = False


@dataclass(frozen=True)
class RoundRow:
    """One round. `first_sequence` is where in the update stream its updates begin."""

    number: int
    state: str
    cohort: tuple[str, ...]
    model_sha256: str
    first_sequence: int
    opened_at: float
    closed_at: float | None = None
    outcome: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRow:
    """One version of the shared model, without its weights."""

    version: int
    sha256: str
    round: int
    created_at: float


class CoordinatorStore:
    """The store behind one URL."""

    def __init__(self, url: str) -> None:
        """Connect, and make the tables when there are none.

        Raises UsageError when the URL is wrong, the database does not answer, or it was written by
        a newer Hedgerow. No message shows a password that the URL holds.
        """
        self._engine = _engine(url)
        self._current: sa.Connection | None = None
        if self._engine.dialect.name == "sqlite":
            _make_file_private(self._engine.url)
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        try:
            self._make_tables()
        except sa.exc.DBAPIError as error:
            self._engine.dispose()
            raise UsageError(
                f"the coordinator store {_shown(self._engine.url)} does not answer: {error.orig}"
            ) from error
        except UsageError:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside take effect together, or none when the block raises.

        One inside another joins the outer one.
        """
        if self._current is not None:
            yield
            return
        with self._engine.begin() as connection:
            self._current = connection
            try:
                yield
            finally:
                self._current = None

    # Devices

    def add_device(self, device: DeviceRow) -> bool:
        """Remember an enrolled device; False, and nothing changes, when its id is known."""
        with self.connection() as connection:
            if self.device(device.id) is not None:
                return False
            connection.execute(
                sa.insert(_devices).values(
                    id=device.id,
                    name=device.name,
                    enrolled_at=device.enrolled_at,
                    revoked=device.revoked,
                )
            )
        return True

    def device(self, device_id: str) -> DeviceRow | None:
        """One device; None when it never enrolled."""
        row = self._row(sa.select(_devices).where(_devices.c.id == device_id))
        return None if row is None else DeviceRow(**row)

    def devices(self) -> list[DeviceRow]:
        """All devices, in order of enrolment."""
        query = sa.select(_devices).order_by(_devices.c.enrolled_at, _devices.c.id)
        return [DeviceRow(**row) for row in self._rows(query)]

    def set_revoked(self, device_id: str, revoked: bool) -> bool:
        """Mark a device; whether it is known. `Authority.revoke` is what keeps it out."""
        with self.connection() as connection:
            result = connection.execute(
                sa.update(_devices).where(_devices.c.id == device_id).values(revoked=revoked)
            )
            return result.rowcount == 1

    def settled(self) -> dict[str, int]:
        """The last round whose update of a device has its outcome, by device, where it was kept."""
        return {row["device"]: row["round"] for row in self._rows(sa.select(_settled))}

    def set_settled(self, rounds: Mapping[str, int]) -> None:
        """Keep the last settled round of these devices; the others' stay."""
        if not rounds:
            return
        old = sa.delete(_settled).where(_settled.c.device == sa.bindparam("one"))
        with self.connection() as connection:
            connection.execute(old, [{"one": device} for device in rounds])
            connection.execute(
                sa.insert(_settled),
                [{"device": device, "round": number} for device, number in rounds.items()],
            )

    # Rounds

    def put_round(self, round_: RoundRow) -> None:
        """Keep the round of that number as it now stands. A metric not finite comes back as NaN."""
        values = {
            "state": round_.state,
            "cohort": list(round_.cohort),
            "model_sha256": round_.model_sha256,
            "first_sequence": round_.first_sequence,
            "opened_at": round_.opened_at,
            "closed_at": round_.closed_at,
            "outcome": round_.outcome,
            "metrics": {k: v if math.isfinite(v) else None for k, v in round_.metrics.items()},
        }
        with self.connection() as connection:
            changed = connection.execute(
                sa.update(_rounds).where(_rounds.c.number == round_.number).values(values)
            )
            if changed.rowcount == 0:
                connection.execute(sa.insert(_rounds).values(number=round_.number, **values))

    def round(self, number: int) -> RoundRow | None:
        """One round; None when it never opened."""
        row = self._row(sa.select(_rounds).where(_rounds.c.number == number))
        return None if row is None else _round(row)

    def last_round(self) -> RoundRow | None:
        """The round with the largest number."""
        return next(iter(self.rounds(1)), None)

    def rounds(self, limit: int = 100) -> list[RoundRow]:
        """The newest rounds, newest first."""
        query = sa.select(_rounds).order_by(_rounds.c.number.desc()).limit(limit)
        return [_round(row) for row in self._rows(query)]

    def forget_rounds(self, before_number: int) -> int:
        """Delete older rounds and the models that came of them; how many rounds that were.

        The newest model stays, whatever round it came of: it is the one in use.
        """
        newest = sa.select(sa.func.max(_models.c.version)).scalar_subquery()
        old = (_models.c.round < before_number) & (_models.c.version < newest)
        with self.connection() as connection:
            connection.execute(sa.delete(_models).where(old))
            query = sa.delete(_rounds).where(_rounds.c.number < before_number)
            return connection.execute(query).rowcount

    # Models

    def add_model(self, model: ModelRow, weights: bytes) -> None:
        """Keep a version; the same again changes nothing, another hash raises UsageError."""
        with self.connection() as connection:
            known = self.model(model.version)
            if known is not None:
                if known.sha256 != model.sha256:
                    raise UsageError(
                        f"model version {model.version} is {known.sha256}, and cannot become "
                        f"{model.sha256}; a version is written once"
                    )
                return
            connection.execute(
                sa.insert(_models).values(
                    version=model.version,
                    sha256=model.sha256,
                    round=model.round,
                    created_at=model.created_at,
                    weights=weights,
                )
            )

    def model(self, version: int) -> ModelRow | None:
        """One version; None when there is none."""
        row = self._row(sa.select(*_MODEL_COLUMNS).where(_models.c.version == version))
        return None if row is None else ModelRow(**row)

    def last_model(self) -> ModelRow | None:
        """The newest version; None before the first."""
        return next(iter(self.models(1)), None)

    def models(self, limit: int) -> list[ModelRow]:
        """The newest versions, newest first."""
        query = sa.select(*_MODEL_COLUMNS).order_by(_models.c.version.desc()).limit(limit)
        return [ModelRow(**row) for row in self._rows(query)]

    def model_weights(self, version: int) -> bytes | None:
        """The weights of a version; None when it is unknown or its weights were forgotten."""
        row = self._row(sa.select(_models.c.weights).where(_models.c.version == version))
        return None if row is None or row["weights"] is None else bytes(row["weights"])

    def forget_weights(self, before_version: int) -> int:
        """Free the bytes of older versions, whose rows stay; how many versions that were."""
        with self.connection() as connection:
            old = (_models.c.version < before_version) & _models.c.weights.is_not(None)
            return connection.execute(sa.update(_models).where(old).values(weights=None)).rowcount

    # Facts

    def fact(self, key: str) -> bytes | None:
        """The value kept under `key`; None when there is none."""
        row = self._row(sa.select(_facts.c.value).where(_facts.c.key == key))
        return None if row is None else bytes(row["value"])

    def set_fact(self, key: str, value: bytes | None) -> None:
        """Keep `value` under `key`; None deletes."""
        with self.connection() as connection:
            connection.execute(sa.delete(_facts).where(_facts.c.key == key))
            if value is not None:
                connection.execute(sa.insert(_facts).values(key=key, value=value))

    @contextlib.contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """The connection of the transaction that is open, or of one for this block."""
        with self.transaction():
            assert self._current is not None
            yield self._current

    def _rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _row(self, query: sa.Select[Any]) -> dict[str, Any] | None:
        return next(iter(self._rows(query)), None)

    def _make_tables(self) -> None:
        with self.connection() as connection:
            _metadata.create_all(connection)
            version = connection.execute(sa.select(_version.c.version)).scalar()
            if version is None:
                connection.execute(sa.insert(_version).values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise UsageError(
                    f"the coordinator store has layout {version}, this Hedgerow knows "
                    f"{SCHEMA_VERSION}; update Hedgerow or choose another database"
                )


def _round(row: Mapping[str, Any]) -> RoundRow:
    metrics = {name: math.nan if value is None else value for name, value in row["metrics"].items()}
    return RoundRow(**{**row, "cohort": tuple(row["cohort"]), "metrics": metrics})


def _engine(url: str) -> sa.Engine:
    """The engine for a URL, of which an error shows the scheme alone. Raises UsageError."""
    try:
        return sa.create_engine(url, pool_pre_ping=True)
    except (sa.exc.NoSuchModuleError, ImportError) as error:
        fault = str(error)
    except (sa.exc.ArgumentError, ValueError):  # what these say may hold a part of a password
        fault = "this is no URL of a database"
    scheme = f"{url.partition('://')[0]}://…" if "://" in url else "without a scheme"
    raise UsageError(
        f"coordinator store {scheme}: {fault}; wanted sqlite:///file.db, or "
        f"postgresql+psycopg://… with pip install 'hedgerow[postgresql]'"
    )


def _make_file_private(url: sa.URL) -> None:
    path = url.database
    if path is None or path in ("", ":memory:") or path.startswith("file:"):
        return
    try:
        sqlite_file.make_private(Path(path))
    except OSError as error:
        raise UsageError(f"cannot write the coordinator store {path}: {error}") from error


def _shown(url: sa.URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; see _begin_sqlite
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
