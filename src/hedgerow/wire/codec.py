r"""Bytes ↔ messages: MessagePack in a signed envelope.

An envelope is the array `[version, body, signature]`; `body` is the message as MessagePack and
`signature` the sender's Ed25519 signature over `b"hedgerow 1\n" + sender + b"\n" + SHA-256(body)`.
The sender does not travel in it: whoever opens an envelope says whose it must be.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from hedgerow.core.errors import PeerError
from hedgerow.wire.messages import (
    VERSION,
    FromCoordinator,
    FromDevice,
    Message,
    Offer,
    Published,
)

PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
"""Largest envelope anybody reads; NATS is set to the same."""

Sign = Callable[[bytes], bytes]
Verify = Callable[[str, bytes, bytes], bool]

M = TypeVar("M", bound=Message)


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A message still closed, and the signature that shows who sent it."""

    version: int
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=64)]


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises on hostile bytes; the last for arrays nested some thousand deep."""

_encode = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(Envelope).decode
_from_device: msgspec.msgpack.Decoder[FromDevice] = msgspec.msgpack.Decoder(FromDevice)
_from_coordinator: msgspec.msgpack.Decoder[FromCoordinator] = msgspec.msgpack.Decoder(
    FromCoordinator
)


def seal(message: Message, sender: str, sign: Sign) -> bytes:
    """A message as the bytes that go out, signed by `sender`."""
    body = _encode(_lean(message))
    return _encode(Envelope(VERSION, body, sign(_signed(sender, body))))


def open_from_device(data: bytes, device: str, verify: Verify) -> FromDevice:
    """The message in `data`, which must be signed by `device`.

    Raises:
        PeerError: `oversized`, `malformed`, `unknown_version` or `forged`.
    """
    message: FromDevice = unseal(data, device, verify, _from_device)
    return message


def open_from_coordinator(data: bytes, coordinator: str, verify: Verify) -> FromCoordinator:
    """The message in `data`, which must be signed by `coordinator`; errors as above."""
    message: FromCoordinator = unseal(data, coordinator, verify, _from_coordinator)
    return message


def unseal(data: bytes, sender: str, verify: Verify, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """The body of an envelope of `sender`, checked and decoded. Raises PeerError."""
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PeerError(
            "oversized", f"{len(data)} bytes came, at most {PAYLOAD_BYTES_MAX} are read"
        )
    try:
        envelope = _open(data)
    except _UNREADABLE as error:
        raise PeerError("malformed", f"not an envelope: {error}") from error
    if envelope.version != VERSION:
        raise PeerError(
            "unknown_version",
            f"version {envelope.version} came, this side speaks {VERSION}",
        )
    if not verify(sender, _signed(sender, envelope.body), envelope.signature):
        raise PeerError("forged", f"not signed by {sender}")
    try:
        return decoder.decode(envelope.body)
    except _UNREADABLE as error:
        raise PeerError("malformed", f"not a message: {error}") from error


def _lean(message: Message) -> Message:
    """The message with what it carries of other rooms' settings without their defaults.

    An offer is mostly plan, algorithm and codecs, and those are mostly defaults.
    """
    fields: dict[str, Any] = {}
    if type(message) is Published:
        if message.patches is None:
            return message
    elif type(message) is Offer:
        fields["plan"] = _raw(message.plan)
        fields["algorithm"] = _raw(message.algorithm)
        fields["codecs"] = tuple(map(_raw, message.codecs))
    else:
        return message
    if message.patches is not None:
        codec: Any = _raw(message.patches.codec)
        fields["patches"] = msgspec.structs.replace(message.patches, codec=codec)
    return msgspec.structs.replace(message, **fields)


@functools.lru_cache(maxsize=256)
def _raw(settings: msgspec.Struct) -> msgspec.Raw:
    return msgspec.Raw(_encode(_told(settings)))


def _told(value: Any) -> Any:
    """Settings as plain data: fields that equal their default, at any depth, are left out."""
    if isinstance(value, tuple):
        return [_told(one) for one in value]
    if not isinstance(value, msgspec.Struct):
        return value
    config, found = value.__struct_config__, {}
    if config.tag_field is not None:
        found[config.tag_field] = config.tag
    for field in msgspec.structs.fields(value):
        mine = getattr(value, field.name)
        if mine != field.default:
            found[field.encode_name] = _told(mine)
    return found


def _signed(sender: str, body: bytes) -> bytes:
    # The digest first: hashing 70 kB twice inside Ed25519 costs more than everything else here.
    return b"hedgerow 1\n" + sender.encode() + b"\n" + hashlib.sha256(body).digest()
