"""Where candidates come from: releases of the fleet, and bundles that the owner lays down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io import clock
from hedgerow.io.keys import verify
from hedgerow.io.links import BlobMissing, BlobRefused, LinkDown
from hedgerow.model.bundle import BYTES_MAX, Bundle
from hedgerow.protocol import trial_state as do
from hedgerow.protocol.trial_state import Standing, Version
from hedgerow.serve.inbox import SUFFIX, private
from hedgerow.serve.trials.models import Candidate, Serving
from hedgerow.wire import releases
from hedgerow.wire.messages import Recall, Release, Trial
from hedgerow.wire.releases import Signed, Statement

if TYPE_CHECKING:
    from hedgerow.serve.trials.shell import Trials

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0
OFFERS_MAX: Final = 16

Fetch = Callable[[str, int], Awaitable[bytes]]


class Releases:
    """The device's half of a rollout: statements in, candidates and news out."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials
        self._fetching: set[int] = set()
        self.fetch: Fetch | None = None
        self.say: Callable[[Trial], None] = lambda news: None

    def tell(self, effect: do.Say) -> None:
        """News of a release, as a message."""
        self.say(
            Trial(
                release=effect.release,
                phase=effect.phase,
                reason=effect.reason,
                why=effect.why[:200],
                windows=effect.windows,
                labelled=effect.judged,
                worse=min(1.0, max(-1.0, effect.loss)),
                changed=min(1.0, max(0.0, effect.changed)),
            )
        )

    async def hear(self, message: Release | Recall) -> None:
        """A release, or the end of one. What is lost on the way, the coordinator says again."""
        if isinstance(message, Recall):
            self._trials.handle(do.Recalled(message.release, message.why))
            return
        signed = Signed(statement=message.statement, signature=message.signature)
        try:
            statement = releases.opened(signed, self._trials.key, verify)
        except PeerError as error:
            log.warning("a release is refused: %s", error)
            number = _claimed(message.statement)
            if number:
                self.tell(do.Say(number, "refused", error.reason, error.detail))
            return
        if _is_known(self._trials.state.standing, statement.number):
            self._trials.handle(do.Asked(statement.number))
        elif statement.number not in self._fetching:
            self._fetching.add(statement.number)
            try:
                await self._bring(statement)
            except LinkDown as error:
                log.info("release %d is not here yet: %s", statement.number, error)
            finally:
                self._fetching.discard(statement.number)

    async def _bring(self, statement: Statement) -> None:
        """Fetch the bundle, and offer it if it is what was signed. Raises LinkDown."""
        version = Version(
            bundle=statement.bundle,
            name=f"{statement.name} {statement.version}",
            source="fleet",
            release=statement.number,
            since_seconds=clock.now(),
        )
        if statement.schema != releases.schema_of(self._trials.serving.bundle.manifest):
            why = "it takes, answers or holds something else than the model in use"
            self._trials.handle(do.Unfit(version, "wrong_schema", why))
            return
        if statement.bytes > BYTES_MAX:
            why = f"{statement.bytes} bytes; a device reads at most {BYTES_MAX}"
            self._trials.handle(do.Unfit(version, "too_large", why))
            return
        assert self.fetch is not None
        try:
            content = await self.fetch(statement.bundle, statement.bytes)
            bundle = await asyncio.to_thread(_opened, content, statement)
        except (BlobMissing, BlobRefused) as error:
            log.warning("release %d is asked for again: %s", statement.number, error)
        except PeerError as error:
            self._trials.handle(do.Unfit(version, error.reason, error.detail))
        else:
            model = Serving(bundle, bundle.weights, version.name, "fleet")
            self._trials.offer_version(model, version)


def _opened(content: bytes, statement: Statement) -> Bundle:
    bundle = Bundle.from_bytes(content)
    releases.check(statement, bundle)
    return bundle


def _claimed(statement: bytes) -> int:
    """The number that an unsigned statement gives itself, to name it by in the answer; 0: none."""
    try:
        return msgspec.msgpack.decode(statement, type=Statement).number
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0


def _is_known(standing: Standing, release: int) -> bool:
    """Whether that release came here before, whatever became of it."""
    attempt = None if standing.attempt is None else standing.attempt.candidate
    versions = (standing.active, standing.waiting, attempt, *(one.version for one in standing.past))
    return any(one is not None and one.release == release for one in versions)


class Inbox:
    """A directory in which the owner lays bundles; each is offered once, and taken away."""

    def __init__(self, directory: Path, offer: Callable[[Candidate], None]) -> None:
        self._directory, self._offer = directory, offer

    async def run(self) -> None:
        """Look again and again.

        Raises:
            UsageError: others may write the directory.
        """
        private(self._directory)
        while True:
            for path in sorted(self._directory.glob(f"*{SUFFIX}"))[:OFFERS_MAX]:
                await self._take(path)
            await asyncio.sleep(POLL_SECONDS)

    async def _take(self, path: Path) -> None:
        try:
            bundle = await asyncio.to_thread(Bundle.load, path)
        except UsageError as error:
            log.warning("what the owner offers is of no use: %s", error)
        else:
            manifest = bundle.manifest
            name = f"{manifest.name} {manifest.version}"
            self._offer(Candidate(bundle, None, name, "owner", "the owner offered it"))
        path.unlink(missing_ok=True)
