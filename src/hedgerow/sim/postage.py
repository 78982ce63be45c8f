"""What messages weigh: the shipping codec's bytes, with a stand-in for the signature.

Ed25519 would cost more than all the rest of a simulation. The stand-in has its length, so that
every byte counted is a byte that would travel.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import blake2b

from hedgerow.core.schema import LocalPlan
from hedgerow.protocol.learning import Form
from hedgerow.seal.codec import Codec, estimate
from hedgerow.wire.codec import seal
from hedgerow.wire.messages import (
    Accept,
    BlobRef,
    CheckIn,
    Message,
    ModelRef,
    Offer,
    Patches,
    Published,
    Receipt,
    Update,
    base_of,
    update_id,
)

SIGNATURE_BYTES = 64
ID_CHARACTERS = 55
SOME_ROUND, SOME_SAMPLES = 1_000, 1_000


def sign(data: bytes) -> bytes:
    """Stands in for Ed25519: as long, and different for different data."""
    return blake2b(data, digest_size=SIGNATURE_BYTES).digest()


def verify(sender: str, data: bytes, signature: bytes) -> bool:
    """Whether `sign` made the signature."""
    return sign(data) == signature


def device_id(client: int) -> str:
    """A device's id, as long as a real one; ids sort as their clients do."""
    digits = base64.b32encode(client.to_bytes(5, "big")).decode()
    return "U" + digits.rjust(ID_CHARACTERS, "A")


COORDINATOR = device_id(0).replace("U", "C", 1)


def client_of(device: str) -> int:
    """The client whose id that is."""
    return int.from_bytes(base64.b32decode(device[-8:]), "big")


def sealed_bytes(message: Message, sender: str) -> int:
    """Bytes of a message in its envelope."""
    return len(seal(message, sender, sign))


@dataclass(frozen=True)
class Postage:
    """Bytes of each message of a round, and of the whole model.

    `up` is an update with its `payloads`, as near as can be told beforehand. An offer or news that
    names the patches to the model weighs `way` more, and `blob` for each patch.
    """

    check_in: int
    accept: int
    offer: int
    receipt: int
    published: int
    update: int
    payloads: int
    model: int
    way: int
    blob: int

    @property
    def up(self) -> int:
        """The whole update."""
        return self.update + self.payloads

    @classmethod
    def of(cls, form: Form, codec: Codec, plan: LocalPlan, down: Codec | None = None) -> Postage:
        """As the messages of this algorithm and these codecs weigh."""
        algorithm, device = form.algorithm, device_id(0)
        shared = form.layout.shared_size
        model_bytes = 4 * shared * (1 + sum(algorithm.brings.values()))
        model = ModelRef(version=SOME_ROUND, hash="0" * 64, bytes=model_bytes)
        receipt = Receipt(id=update_id(device, SOME_ROUND), outcome="counted")
        offer = Offer(
            round=SOME_ROUND,
            model=model,
            plan=plan,
            algorithm=algorithm,  # type: ignore[arg-type]
            codecs=(codec,),
            seed=1 << 47,
            deadline_seconds=600.0,
        )
        update = Update(
            round=SOME_ROUND,
            base=base_of(model),
            samples=SOME_SAMPLES,
            payloads=(b"",) * len(algorithm.sends),
            figures=(1.5,) * len(algorithm.figures),
            metrics={"loss": 1.5, "steps": 10.0},
        )
        news = [
            sealed_bytes(Published(round=SOME_ROUND, model=model, patches=way), COORDINATOR)
            for way in (None, _way(down, 1), _way(down, 2))
        ]
        each = estimate(codec, form.size, form.shapes)
        return cls(
            check_in=sealed_bytes(CheckIn(model_version=SOME_ROUND, samples=SOME_SAMPLES), device),
            accept=sealed_bytes(Accept(round=SOME_ROUND), device),
            offer=sealed_bytes(offer, COORDINATOR),
            receipt=sealed_bytes(receipt, COORDINATOR),
            published=news[0],
            update=sealed_bytes(update, device) + 2 * len(algorithm.sends),
            payloads=round(each) * len(algorithm.sends),
            model=model_bytes,
            way=2 * news[1] - news[0] - news[2],
            blob=news[2] - news[1],
        )


def _way(codec: Codec | None, patches: int) -> Patches | None:
    if codec is None:
        return None
    blobs = (BlobRef(sha256=bytes(32), bytes=SOME_ROUND),) * patches
    return Patches(since=SOME_ROUND, codec=codec, seed=1 << 47, blobs=blobs)
