"""What a release says of itself, and the signature that makes it one.

A statement is signed as it stands, apart from any message: a device keeps it beside the bundle, and
anybody who has the fleet's public key can check it off line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec

from hedgerow.core.errors import PeerError
from hedgerow.model.bundle import Bundle, Manifest
from hedgerow.wire.messages import STATEMENT_BYTES_MAX, Count, Hash, Seconds, Text

DOMAIN = b"hedgerow release 1\n"


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One release: a bundle by its SHA-256, and what it may take the place of.

    `number` grows with every release of a signer: a device takes none that is older than one it
    has seen. `schema` is `schema_of` the bundle, which a model must share with the one it replaces.
    `previous` is the SHA-256 of the statement before this one, empty for the first.
    """

    number: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    name: Text
    version: Text
    bundle: Hash
    bytes: Count
    schema: Hash
    previous: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    created_seconds: Seconds = 0.0


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement as it was signed, by whom, and the signature; a file of `hedgerow release`."""

    statement: Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
    signer: Annotated[str, msgspec.Meta(max_length=56)] = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the statement, by which the next one names it."""
        return hashlib.sha256(self.statement).hexdigest()


def schema_of(manifest: Manifest) -> str:
    """SHA-256 of what two models must share for one to take the other's place without a word.

    That is what goes in, what comes out, and the tensors: windows, decisions, updates and private
    weights then keep their meaning.
    """
    shape = (manifest.name, manifest.input, manifest.output, manifest.layout)
    return hashlib.sha256(msgspec.json.encode(shape)).hexdigest()


def statement_of(
    bundle: Bundle, number: int, *, previous: str = "", created_seconds: float = 0.0
) -> Statement:
    """The statement that releases this bundle."""
    return Statement(
        number=number,
        name=bundle.manifest.name,
        version=bundle.manifest.version,
        bundle=bundle.hash,
        bytes=len(bundle.to_bytes()),
        schema=schema_of(bundle.manifest),
        previous=previous,
        created_seconds=created_seconds,
    )


def sign(statement: Statement, signer: str, with_key: Callable[[bytes], bytes]) -> Signed:
    """The statement, signed by `with_key`, which is that of the public key `signer`."""
    body = msgspec.msgpack.encode(statement)
    return Signed(statement=body, signature=with_key(signed_bytes(body)), signer=signer)


def opened(signed: Signed, key: str, verify: Callable[[str, bytes, bytes], bool]) -> Statement:
    """The statement, which must be signed by the public key `key`.

    Raises:
        PeerError: `forged` or `malformed`.
    """
    if not key or not verify(key, signed_bytes(signed.statement), signed.signature):
        raise PeerError("forged", f"the release is not signed by {key or 'a key known here'}")
    try:
        return msgspec.msgpack.decode(signed.statement, type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError("malformed", f"the release is signed, but no statement: {error}") from error


def check(statement: Statement, bundle: Bundle) -> None:
    """Whether the bundle is the one that the statement is about.

    Raises:
        PeerError: `wrong_hash`, `wrong_name` or `wrong_schema`.
    """
    manifest = bundle.manifest
    if bundle.hash != statement.bundle:
        raise PeerError("wrong_hash", f"{bundle.hash} came, {statement.bundle} was released")
    if (manifest.name, manifest.version) != (statement.name, statement.version):
        raise PeerError(
            "wrong_name",
            f"the bundle is {manifest.name} {manifest.version}, the release says "
            f"{statement.name} {statement.version}",
        )
    if schema_of(manifest) != statement.schema:
        raise PeerError("wrong_schema", "the bundle has another schema than its release says")


def signed_bytes(statement: bytes) -> bytes:
    """What the signature is over."""
    return DOMAIN + hashlib.sha256(statement).digest()
