"""One device of a simulated fleet: its machine, its outbox, and what the world does to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hedgerow.protocol import device as machine
from hedgerow.protocol import effects as do
from hedgerow.sim.postage import device_id, sign
from hedgerow.wire import codec
from hedgerow.wire.messages import FromDevice, ModelRef, Offer, Patches

if TYPE_CHECKING:
    from hedgerow.sim.batches import Key
    from hedgerow.sim.fleet import Fleet

RECEIPT_SECONDS = 900.0
"""An update that arrived is not sent again for so long, whatever becomes of its receipt."""
MOMENT = 1e-6
"""So much after a change it is certain to have happened."""
DESK = -1
"""The coordinator's number on the clock."""


@dataclass(slots=True)
class Device:
    """A device. `life` counts its starts and `spell` its connections: what was planned for an
    earlier one does not happen. `training` is what it is at, since when, and as
    which of its `jobs`.
    """

    client: int
    state: machine.DeviceState
    life: int = 0
    spell: int = 0
    linked: bool = False
    running: bool = True
    timers: dict[str, float] = field(default_factory=dict)
    outbox: dict[str, bytes] = field(default_factory=dict)
    arriving: dict[str, float] = field(default_factory=dict)
    training: tuple[Key, float, int] | None = None
    jobs: int = 0

    @classmethod
    def new(cls, fleet: Fleet, client: int, model: ModelRef, samples: int) -> Device:
        """A device that was just switched on."""
        name = device_id(client)
        settings = fleet.experiment.devices
        state = machine.DeviceState(
            name, "", model, check_in_seconds=settings.check_in_seconds, samples=samples
        )
        device = cls(client, state)
        device._plan_crash(fleet)
        return device

    def happens(self, fleet: Fleet, what: str, values: tuple[Any, ...]) -> None:
        """Something the clock had in store."""
        match what, values:
            case "up", ():
                self._up(fleet)
            case "down", (spell,) if spell == self.spell:
                self._down(fleet)
            case "hear", (spell, message) if spell == self.spell and self.linked:
                if self.running:  # without power nobody listens
                    self._take(fleet, machine.Received(message))
            case "timer", (life, name, at) if life == self.life and self.timers.get(name) == at:
                del self.timers[name]
                self._tell_facts(fleet)
                self._take(fleet, machine.TimerFired(name))
            case "fetched", (life, ref) if life == self.life:
                self._fetched(fleet, ref)
            case "trained", (job, number) if self.training and job == self.training[2]:
                self._trained(fleet, number)
            case "arrive", (spell, post_id):
                self._arrived(fleet, spell, post_id)
            case "crash", (life,) if life == self.life:
                self._crash(fleet)
            case "restart", ():
                self._restart(fleet)

    def _tell_facts(self, fleet: Fleet) -> None:
        """What the next check-in says of power and link, where somebody asks."""
        if fleet.facts_matter:
            client, devices = self.client, fleet.devices
            facts = machine.Facts(
                battery=devices.batteries.share(client, fleet.now),
                on_power=devices.batteries.on_power(fleet.now),
                metered=bool(devices.links.metered[client]),
                link_bytes_per_second=float(devices.links.up[client]),
            )
            self._take(fleet, machine.FactsChanged(facts))

    # The world ------------------------------------------------------------------------------------

    def _up(self, fleet: Fleet) -> None:
        """The link comes up, for as long as the device is there."""
        if self.linked:
            return
        if not fleet.devices.online(self.client, fleet.now + MOMENT):
            self._wait(fleet, "up")
            return
        self.linked, self.spell = True, self.spell + 1
        self._wait(fleet, "down", self.spell)
        if self.running:
            self._tell_facts(fleet)
            self._take(fleet, machine.LinkUp())

    def _down(self, fleet: Fleet) -> None:
        """The link goes; what is on its way is lost."""
        self.linked, self.spell = False, self.spell + 1
        self._wait(fleet, "up")
        if self.running:
            self._take(fleet, machine.LinkDown())

    def _wait(self, fleet: Fleet, what: str, *values: int) -> None:
        """Plan what happens when the device comes or goes next."""
        until = fleet.devices.change_after(self.client, fleet.now + MOMENT)
        if np.isfinite(until):
            fleet.clock.plan(until, self.client, what, *values)

    def _plan_crash(self, fleet: Fleet) -> None:
        if fleet.devices.settings.crash_hours:
            wait = fleet.devices.crash_after(self.client, self.life)
            fleet.clock.plan(fleet.now + wait, self.client, "crash", self.life)

    def _crash(self, fleet: Fleet) -> None:
        """Power is lost: all that is left is the outbox and the installed model."""
        self._stop(fleet)
        self.running, self.life = False, self.life + 1
        self.timers.clear()
        fleet.outcomes["crash"] += 1
        back = fleet.now + fleet.experiment.devices.restart_seconds
        fleet.clock.plan(back, self.client, "restart")

    def _restart(self, fleet: Fleet) -> None:
        before = self.state
        self.running = True
        self.state = machine.DeviceState(
            before.device,
            before.name,
            before.model,
            check_in_seconds=before.check_in_seconds,
            samples=before.samples,
            unacknowledged=set(self.outbox),
        )
        self._plan_crash(fleet)
        if self.linked:
            self._tell_facts(fleet)
            self._take(fleet, machine.LinkUp())

    # Effects --------------------------------------------------------------------------------------

    def _take(self, fleet: Fleet, event: machine.Event) -> None:
        """One event through the machine, and its effects."""
        self.state, effects = machine.step(self.state, event, fleet.now)
        for effect in effects:
            match effect:
                case do.SendNote(message):
                    self._note(fleet, message)
                case do.Post(post_id, message):
                    self.outbox[post_id] = codec.seal(message, self.state.device, sign)
                    self._send(fleet, post_id)
                case do.Resend(post_id):
                    self._send(fleet, post_id)
                case do.Forget(post_id):
                    self.outbox.pop(post_id, None)
                    self.arriving.pop(post_id, None)
                case do.Fetch(ref, patches):
                    self._fetch(fleet, ref, self._to_fetch(fleet, ref, patches))
                case do.Train(offer):
                    self._train(fleet, offer)
                case do.StopTraining():
                    self._stop(fleet)
                case do.SetTimer(name, at):
                    self.timers[name] = at
                    fleet.clock.plan(at, self.client, "timer", self.life, name, at)
                case do.CancelTimer(name):
                    self.timers.pop(name, None)

    def _note(self, fleet: Fleet, message: FromDevice) -> None:
        """Send if there is a link; nobody waits for it."""
        if not self.linked:
            return
        data = codec.seal(message, self.state.device, sign)
        fleet.bill(self.client, up=len(data))
        for at in fleet.devices.links.arrivals(self.client, len(data), up=True, moment=fleet.now):
            fleet.clock.plan(at, DESK, "hear", self.state.device, data)

    def _send(self, fleet: Fleet, post_id: str) -> None:
        """Send what is in the outbox, unless it is on its way or has arrived of late."""
        data = self.outbox.get(post_id)
        if data is None or not self.linked:
            return
        if fleet.now < self.arriving.get(post_id, -RECEIPT_SECONDS) + RECEIPT_SECONDS:
            return
        fleet.bill(self.client, up=len(data))
        arrivals = fleet.devices.links.arrivals(self.client, len(data), up=True, moment=fleet.now)
        for at in arrivals:
            self.arriving[post_id] = at
            fleet.clock.plan(at, self.client, "arrive", self.spell, post_id)

    def _arrived(self, fleet: Fleet, spell: int, post_id: str) -> None:
        """An update is through, unless the link broke while it was on its way."""
        data = self.outbox.get(post_id)
        if spell != self.spell:
            self.arriving.pop(post_id, None)
        elif data is not None:
            fleet.clock.plan(fleet.now, DESK, "hear", self.state.device, data)

    def _to_fetch(self, fleet: Fleet, ref: ModelRef, patches: Patches | None) -> int:
        """Bytes to the model: patches, or the whole of it, or both where the patches are of no use
        since they change more than came with the bundle.
        """
        if patches is None:
            return ref.bytes
        in_vain = fleet.experiment.algorithm.brings and self.state.model.version == 0
        return sum(blob.bytes for blob in patches.blobs) + (ref.bytes if in_vain else 0)

    def _fetch(self, fleet: Fleet, ref: ModelRef, size: int) -> None:
        """Download; a loss is noticed when the bytes should have been there."""
        links = fleet.devices.links
        fleet.bill(self.client, down=size)
        arrivals = links.arrivals(self.client, size, up=False, moment=fleet.now)
        seconds = size / float(links.down[self.client])
        at = arrivals[0] if arrivals else fleet.now + seconds + links.settings.latency_seconds
        fleet.clock.plan(at, self.client, "fetched", self.life, ref if arrivals else ref.hash)

    def _fetched(self, fleet: Fleet, ref: ModelRef | str) -> None:
        if isinstance(ref, str):
            self._take(fleet, machine.FetchFailed(ref, "it was lost on the way"))
        elif not self.linked:
            self._take(fleet, machine.FetchFailed(ref.hash, "the link went down"))
        elif ref.hash not in fleet.models:
            self._take(fleet, machine.FetchFailed(ref.hash, "it is no longer there"))
        else:
            self._take(fleet, machine.Fetched(ref.hash))

    # Training -------------------------------------------------------------------------------------

    def _train(self, fleet: Fleet, offer: Offer) -> None:
        model = fleet.models.get(offer.model.hash)
        if not fleet.devices.batteries.may_train(self.client, fleet.now):
            self._take(fleet, machine.TrainingFailed(offer.round, "the battery is low"))
        elif model is None:
            self._take(fleet, machine.TrainingFailed(offer.round, "the model is gone"))
        else:
            key = fleet.batches.begin(self.client, offer, model)
            self.jobs += 1
            self.training = (key, fleet.now, self.jobs)
            done = fleet.now + fleet.train_seconds(self.client, offer.plan)
            fleet.clock.plan(done, self.client, "trained", self.jobs, offer.round)

    def _trained(self, fleet: Fleet, number: int) -> None:
        assert self.training is not None
        key, since, _ = self.training
        seconds, self.training = fleet.now - since, None
        fleet.devices.batteries.compute(self.client, seconds, fleet.now)
        sent = fleet.batches.finish(self.client, key, fleet.engine, fleet.shape)
        if sent is None:
            fleet.totals.wasted += 1
            self._take(fleet, machine.TrainingFailed(number, "training diverged"))
            return
        figures = {"loss": sent.loss, "steps": float(sent.steps), "seconds": seconds}
        trained = machine.Trained(
            number,
            sent.payloads,
            int(fleet.data.counts[self.client]),
            {name: value for name, value in figures.items() if np.isfinite(value)},
            sent.figures,
            sent.group,
        )
        self._take(fleet, trained)

    def _stop(self, fleet: Fleet) -> None:
        """Training ends early; what it has cost so far is paid."""
        if self.training is not None:
            key, since, _ = self.training
            self.training = None
            fleet.batches.stop(self.client, key)
            fleet.devices.batteries.compute(self.client, fleet.now - since, fleet.now)
