"""How a device comes into a fleet: a join file in, an enrolment out.

A join file says where the fleet is, whom to believe there (the coordinator's public key), and holds
the join credential, with which one can ask for enrolment and do nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import msgspec
import numpy as np

from hedgerow.core.errors import PeerError, UsageError
from hedgerow.io.authority import Credentials
from hedgerow.io.device_store import DeviceStore
from hedgerow.io.keys import Identity, read_secret, replace_secret, verify
from hedgerow.io.links import ByteMeter, LinkDown
from hedgerow.io.nats_link import NatsJoinLink
from hedgerow.io.surroundings import Egress
from hedgerow.serve.device import FACT_ENROLMENT
from hedgerow.wire import codec
from hedgerow.wire.messages import Enrol, Enrolled, NotEnrolled

log = logging.getLogger(__name__)

ANSWER_SECONDS_MAX = 20.0
"""Then connect anew. The request is repeated all along, so a short one would only cost logins."""
RETRY_SECONDS_MAX = 30.0


class JoinFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device needs to ask for enrolment. A secret: whoever has it may bring devices in."""

    fleet: str
    url: str
    coordinator: str
    jwt: str
    seed: str

    def save(self, path: Path) -> None:
        """Write it, readable by its owner alone; an older one is replaced in one step."""
        replace_secret(path, json.dumps(msgspec.to_builtins(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> JoinFile:
        """Read it. Raises UsageError when it is missing, readable by others, or something else."""
        try:
            return msgspec.json.decode(read_secret(path), type=cls)
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{path} is no join file ({error}); the coordinator writes join.json into its state"
            ) from error

    def __repr__(self) -> str:
        return f"JoinFile(fleet={self.fleet!r}, url={self.url!r})"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """A device's place in a fleet, as it keeps it."""

    fleet: str
    url: str
    coordinator: str
    credential: str
    bundle: str
    bundle_bytes: int


def kept_enrolment(store: DeviceStore) -> Enrolment | None:
    """The enrolment in the store, if there is one."""
    data = store.fact(FACT_ENROLMENT)
    return None if data is None else msgspec.msgpack.decode(data, type=Enrolment)


async def enrol(
    join: JoinFile,
    identity: Identity,
    store: DeviceStore,
    name: str,
    meter: ByteMeter,
    rng: np.random.Generator,
    egress: Egress | None = None,
) -> Enrolment:
    """Ask until the coordinator answers; keep the answer durably.

    Raises:
        UsageError: the coordinator turned the device away, with its reason.
    """
    request = codec.seal(Enrol(device=identity.public, name=name), identity.public, identity.sign)
    credentials = Credentials(join.jwt, Identity(join.seed))
    wait_seconds = 0.2
    while True:
        link = NatsJoinLink(join.url, join.fleet, credentials, meter, egress)
        try:
            answer = await link.enrol(request, identity.public, ANSWER_SECONDS_MAX)
            message = codec.open_from_coordinator(answer, join.coordinator, verify)
        except LinkDown as error:
            log.info("not enrolled yet: %s", error)
        except PeerError as error:
            log.warning("an answer to the enrolment was refused: %s", error)
        else:
            if isinstance(message, NotEnrolled):
                raise UsageError(f"the fleet {join.fleet!r} took no new device: {message.reason}")
            if isinstance(message, Enrolled) and message.device == identity.public:
                return _keep(store, join, message)
        await asyncio.sleep(wait_seconds * (0.5 + rng.random()))
        wait_seconds = min(wait_seconds * 2, RETRY_SECONDS_MAX)


def _keep(store: DeviceStore, join: JoinFile, message: Enrolled) -> Enrolment:
    enrolment = Enrolment(
        fleet=message.fleet,
        url=join.url,
        coordinator=join.coordinator,
        credential=message.credential,
        bundle=message.bundle,
        bundle_bytes=message.bundle_bytes,
    )
    store.set_fact(FACT_ENROLMENT, msgspec.msgpack.encode(enrolment))
    return enrolment
