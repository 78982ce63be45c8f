"""The messages of the star: what a device and its coordinator say to each other.

Each struct is one message; its tag is the message's kind on the wire and the name of its page in
`docs/messages/`. Every field is bounded by its type, so that a decoded message is a checked one.
"""

from typing import Annotated, Literal

import msgspec

from hedgerow.core.schema import LocalPlan

VERSION = 1
"""Version of the protocol. A receiver refuses any other (`unknown_version`)."""

Text = Annotated[str, msgspec.Meta(max_length=200)]
DeviceId = Annotated[str, msgspec.Meta(pattern=r"^U[A-Z2-7]{55}$")]
"""A device's public NATS user key (Ed25519, base32): the name is the key."""
Hash = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Label = Annotated[str, msgspec.Meta(max_length=64)]
Metrics = Annotated[dict[Label, float], msgspec.Meta(max_length=64)]
"""Plain numbers by name. Never samples: at most 64 of them."""


class Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """Base of all messages."""


class ModelRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of the shared weights: a blob of `bytes` bytes, little-endian float32."""

    version: Count
    hash: Hash
    bytes: Count


# From a device -----------------------------------------------------------------------------------


class Enrol(Message, frozen=True, kw_only=True, tag="enrol"):
    """A new device asks to join; sent with the fleet's join credential, signed with its own key."""

    device: DeviceId
    name: Text


class CheckIn(Message, frozen=True, kw_only=True, tag="check_in"):
    """A device is there, and says what it has. Repeated at an interval; a replay changes nothing.

    `pending` are the rounds whose update it sent without having got a receipt.
    """

    model_version: Count
    samples: Count
    name: Text = ""
    pending: Annotated[list[Count], msgspec.Meta(max_length=64)] = []


class Accept(Message, frozen=True, kw_only=True, tag="accept"):
    """The device takes the offer of this round and starts training."""

    round: Count


class Decline(Message, frozen=True, kw_only=True, tag="decline"):
    """The device does not take part in this round; its owner needs to give no reason but a word."""

    round: Count
    reason: Text


class Update(Message, frozen=True, kw_only=True, tag="update"):
    """What one device learned in one round: new shared weights less the ones it started from.

    `payload` is the delta as `encoding` says (`float32`: little-endian, four bytes an element).
    `base` is the hash of the model it started from. The id is `update_id(device, round)`.
    """

    round: Count
    base: Hash
    samples: Count
    encoding: Literal["float32"] = "float32"
    payload: bytes
    metrics: Metrics = {}


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """What the device decides right now, and figures about itself. No samples."""

    model_version: Count
    label: Label = ""
    confidence: float = 0.0
    reason: Text = ""
    metrics: Metrics = {}


# From the coordinator ----------------------------------------------------------------------------


class Enrolled(Message, frozen=True, kw_only=True, tag="enrolled"):
    """The device is in: its credential, and the bundle the fleet runs."""

    device: DeviceId
    fleet: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}$")]
    credential: Annotated[str, msgspec.Meta(max_length=4096)]
    bundle: Hash
    bundle_bytes: Count


class NotEnrolled(Message, frozen=True, kw_only=True, tag="not_enrolled"):
    """The device may not join, and why."""

    device: DeviceId
    reason: Text


class Offer(Message, frozen=True, kw_only=True, tag="offer"):
    """A task: train this model by this plan and send the update within `deadline_seconds`."""

    round: Count
    model: ModelRef
    plan: LocalPlan
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=1e7)]


class Receipt(Message, frozen=True, kw_only=True, tag="receipt"):
    """What became of an update. Whatever the outcome, the device need not send it again."""

    id: Text
    outcome: Label


class RollCall(Message, frozen=True, kw_only=True, tag="roll_call"):
    """Whoever hears this checks in, each at its own moment within `spread_seconds`."""

    spread_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Published(Message, frozen=True, kw_only=True, tag="published"):
    """A new model version is out. Whoever still trains for `round` or an earlier one may stop."""

    round: Count
    model: ModelRef


FromDevice = Enrol | CheckIn | Accept | Decline | Update | Report
FromCoordinator = Enrolled | NotEnrolled | Offer | Receipt | Published | RollCall

MESSAGES: tuple[type[Message], ...] = (
    *(Enrol, CheckIn, Accept, Decline, Update, Report),
    *(Enrolled, NotEnrolled, Offer, Receipt, Published, RollCall),
)


def kind_of(message: Message | type[Message]) -> str:
    """The kind of a message as it stands on the wire: `update`, `offer`, …"""
    return str(message.__struct_config__.tag)


def round_of(update: str) -> int:
    """The round in an id that `update_id` made."""
    return int(update.split("/")[1])


def update_id(device: str, round_number: int) -> str:
    """The id of a device's update in a round: the same update always has the same id."""
    return f"{device}/{round_number}/update"
