"""What a coordinator keeps of releases: the statements, how far each is rolled out, every trial.

Tables beside those of `hedgerow.io.coordinator_store`, in the same database and transactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import sqlalchemy as sa

from hedgerow.io.coordinator_store import CoordinatorStore

RELEASES_KEPT: Final = 32
"""How many of the newest releases are kept, each with its trials; their bundles only for one."""

_metadata = sa.MetaData()
_releases = sa.Table(
    "releases",
    _metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("statement", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("bundle", sa.LargeBinary),
    sa.Column("rollout", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
_trials = sa.Table(
    "trials",
    _metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("device", sa.String(56), primary_key=True),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("windows", sa.BigInteger, nullable=False),
    sa.Column("worse", sa.Double, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
)


@dataclass(frozen=True)
class ReleaseRow:
    """One release as it was signed, and its rollout as the protocol wrote it."""

    number: int
    statement: bytes
    signature: bytes
    rollout: bytes
    created_at: float
    """Unix seconds."""


@dataclass(frozen=True)
class TrialRow:
    """How the trial of release `number` went on one device, as it said last."""

    number: int
    device: str
    phase: str
    reason: str = ""
    why: str = ""
    windows: int = 0
    worse: float = 0.0
    changed: float = 0.0


class ReleaseStore:
    """Releases in a coordinator's store."""

    def __init__(self, store: CoordinatorStore) -> None:
        self._store = store
        with store.connection() as connection:
            _metadata.create_all(connection)

    def add(self, release: ReleaseRow, bundle: bytes) -> None:
        """Keep a release and its bundle; those of long ago go, and the bundle of the one before."""
        with self._store.connection() as connection:
            connection.execute(sa.update(_releases).values(bundle=None))
            connection.execute(sa.insert(_releases).values(**asdict(release), bundle=bundle))
            old = (
                sa.select(_releases.c.number)
                .order_by(_releases.c.number.desc())
                .offset(RELEASES_KEPT)
            )
            numbers = [row[0] for row in connection.execute(old)]
            for table in (_trials, _releases):
                connection.execute(sa.delete(table).where(table.c.number.in_(numbers)))

    def set_rollout(self, number: int, rollout: bytes) -> None:
        """Keep how far a release is rolled out."""
        query = sa.update(_releases).where(_releases.c.number == number)
        with self._store.connection() as connection:
            connection.execute(query.values(rollout=rollout))

    def last(self) -> ReleaseRow | None:
        """The newest release; None before the first."""
        return next(iter(self.releases(1)), None)

    def releases(self, limit: int = RELEASES_KEPT) -> list[ReleaseRow]:
        """The newest releases, newest first."""
        columns = [column for column in _releases.c if column.name != "bundle"]
        query = sa.select(*columns).order_by(_releases.c.number.desc()).limit(limit)
        with self._store.connection() as connection:
            return [ReleaseRow(**row) for row in connection.execute(query).mappings()]

    def bundle(self, number: int) -> bytes | None:
        """The archive of a release; None when it is no longer kept."""
        query = sa.select(_releases.c.bundle).where(_releases.c.number == number)
        with self._store.connection() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else bytes(found)

    def put_trials(self, trials: Sequence[TrialRow]) -> None:
        """Keep what these devices said last."""
        with self._store.connection() as connection:
            for trial in trials:
                connection.execute(
                    sa.delete(_trials).where(
                        (_trials.c.number == trial.number) & (_trials.c.device == trial.device)
                    )
                )
            if trials:
                connection.execute(sa.insert(_trials), [asdict(trial) for trial in trials])

    def trials(self, number: int) -> list[TrialRow]:
        """Every trial of a release, by device."""
        query = sa.select(_trials).where(_trials.c.number == number).order_by(_trials.c.device)
        with self._store.connection() as connection:
            return [TrialRow(**row) for row in connection.execute(query).mappings()]
