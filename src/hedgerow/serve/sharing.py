"""The part of an agent that belongs to a fleet: enrol, take its bundle, share what was learned."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import msgspec

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io import entropy
from hedgerow.io.authority import Credentials
from hedgerow.io.links import LinkDown, OnMessage, OnState
from hedgerow.io.surroundings import Egress
from hedgerow.model.bundle import BYTES_MAX, Bundle
from hedgerow.protocol import device as machine
from hedgerow.serve.device import FACT_ENROLMENT, DeviceShell, Hooks, Trainer
from hedgerow.serve.home import Home
from hedgerow.serve.means import means_of
from hedgerow.serve.windows import label_counts
from hedgerow.wire.messages import Report

if TYPE_CHECKING:
    from hedgerow.io.nats_link import NatsDeviceLink
    from hedgerow.serve.joining import Enrolment

log = logging.getLogger(__name__)

BUNDLE_RETRY_SECONDS = 2.0
ASK_AGAIN_SECONDS = 60.0
"""Pause before a device that was turned away asks again."""


class Sharing:
    """One device's place in a fleet. `run` ends only by an error or by being cancelled."""

    def __init__(
        self,
        home: Home,
        egress: Egress,
        trainer: Trainer,
        executor: Executor,
        hooks: Hooks,
        changed_bundle: Callable[[Bundle], Awaitable[None]],
        prepared: Callable[[], None],
        joined: Callable[[], None],
        report: Callable[[], Report],
        samples: Callable[[], int | None],
    ) -> None:
        """`changed_bundle` hears of another bundle, `prepared` is called before learning starts,
        `samples` says how many windows there are to learn from (None: as many as are stored),
        `joined` when there are a shell and a link, just before they connect.
        """
        self._home, self._trainer, self._executor, self._hooks = home, trainer, executor, hooks
        self._changed_bundle, self._prepared, self._report = changed_bundle, prepared, report
        self._joined, self._egress, self._samples = joined, egress, samples
        self.enrolment: Enrolment | None = None
        self.link: NatsDeviceLink | None = None
        self.shell: DeviceShell | None = None

    async def run(self) -> None:
        """Enrol if need be, take the fleet's bundle, then let the protocol machine run."""
        self.enrolment = enrolment = await self._enrolment()
        if enrolment is None:
            await asyncio.Event().wait()
            return
        await self._take_bundle(enrolment)
        self._prepared()
        self.shell = shell = self._shell(enrolment)
        self.link = link = self._link(enrolment, shell.on_message, shell.on_state)
        shell.attach(link)
        self._joined()
        if self._home.model.version > 0:
            self._hooks.installed(*self._home.model_at_hand())
        await link.connect()
        reports = asyncio.create_task(self._keep_reporting())
        try:
            await asyncio.shield(shell.tasks.failed)
        finally:
            reports.cancel()

    async def close(self) -> None:
        """Leave the link; the outbox keeps what was not acknowledged."""
        try:
            if self.shell is not None:
                await self.shell.close()
        finally:
            if self.link is not None:
                await self.link.close()

    def send_report(self) -> None:
        """Say now what there is to say."""
        if self.shell is not None:
            means = means_of(self._home.settings, self._home.store, self.shell.state.facts)
            self.shell.handle(machine.FactsChanged(means))
            samples = self._samples()
            if samples is not None and samples != self.shell.state.samples:
                self.shell.handle(machine.SamplesChanged(samples))
            self.shell.handle(machine.Reported(self._report()))

    async def _keep_reporting(self) -> None:
        while True:
            await asyncio.sleep(self._home.settings.report_seconds)
            self.send_report()

    def _shell(self, enrolment: Enrolment) -> DeviceShell:
        home, settings = self._home, self._home.settings
        windows = home.windows("train")
        output = home.bundle.manifest.output
        labels = label_counts(windows, output) if settings.share_label_counts else None
        state = machine.DeviceState(
            device=home.identity.public,
            name=home.name,
            model=home.model,
            check_in_seconds=settings.check_in_seconds,
            personalise_after_seconds=settings.personalise_after_seconds,
            samples=len(windows.y),
            facts=means_of(settings, home.store, machine.Facts(labels=labels)),
            personalise_due=home.model.version > 0 and settings.personalise_after_seconds > 0,
        )
        return DeviceShell(
            state=state,
            identity=home.identity,
            coordinator=enrolment.coordinator,
            store=home.store,
            trainer=self._trainer,
            executor=self._executor,
            hooks=self._hooks,
            layout=home.bundle.manifest.layout,
        )

    async def _enrolment(self) -> Enrolment | None:
        """The place in a fleet: the one kept, at the address the join file gives now; or a new one.

        Raises:
            UsageError: the join file is of another fleet than the device is in.
        """
        home, path = self._home, self._home.settings.join
        if path is None and home.store.fact(FACT_ENROLMENT) is None:
            return None
        from hedgerow.serve.joining import JoinFile, enrol, kept_enrolment

        kept = kept_enrolment(home.store)
        if path is None or (kept is not None and not path.exists()):
            return kept
        join = JoinFile.load(path)
        if kept is not None:
            if (kept.fleet, kept.coordinator) != (join.fleet, join.coordinator):
                raise UsageError(
                    f"{path} is of the fleet {join.fleet!r}, and this device is in {kept.fleet!r}; "
                    "give it that fleet's join file, or another state directory"
                )
            return msgspec.structs.replace(kept, url=join.url)
        while True:
            try:
                return await enrol(
                    *(join, home.identity, home.store, home.name, home.meter, entropy.generator()),
                    egress=self._egress,
                )
            except UsageError as error:  # the device goes on by itself, and asks again
                log.warning("working alone: %s", error)
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _take_bundle(self, enrolment: Enrolment) -> None:
        """Fetch the fleet's bundle, unless it is the one at hand."""
        if enrolment.bundle == self._home.bundle.hash:
            self._home.pin_bundle()
            return
        if enrolment.bundle_bytes > BYTES_MAX:
            raise UsageError(
                f"the fleet's bundle has {enrolment.bundle_bytes} bytes; "
                f"a device reads at most {BYTES_MAX}"
            )
        link = self._link(enrolment, lambda data: None, lambda up: None)
        try:
            await link.connect()
            content, bundle = await self._fetched_bundle(link, enrolment)
        finally:
            await link.close()
        self._home.take(content, bundle)
        await self._changed_bundle(bundle)

    async def _fetched_bundle(
        self, link: NatsDeviceLink, enrolment: Enrolment
    ) -> tuple[bytes, Bundle]:
        while True:
            try:
                content = await link.fetch_blob(enrolment.bundle, enrolment.bundle_bytes)
                return content, Bundle.from_bytes(content)
            except (LinkDown, PeerError) as error:
                log.info("the fleet's bundle is not here yet: %s", error)
                await asyncio.sleep(BUNDLE_RETRY_SECONDS)

    def _link(
        self, enrolment: Enrolment, on_message: OnMessage, on_state: OnState
    ) -> NatsDeviceLink:
        from hedgerow.io.nats_link import NatsDeviceLink

        credentials = Credentials(enrolment.credential, self._home.identity)
        return NatsDeviceLink(
            *(enrolment.url, enrolment.fleet, credentials, on_message, on_state, self._home.meter),
            egress=self._egress,
        )
