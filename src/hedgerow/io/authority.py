"""The keys of one fleet, and the NATS JWTs that say what each role may publish and hear.

    operator ─ signs ─ account of the fleet ─ names three signing keys, each bound to one role
                                              device · join · coordinator

A role's permissions are a template on its signing key, not in the user's JWT, and the server
refuses a user JWT that brings permissions of its own. So whoever steals the device signing key can
make devices and nothing else; and widening a role later needs no new credentials.
The directory is worth the whole fleet: only the server and `Authority` need it, a coordinator
needs no more than its credentials and an `Enroller`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from hedgerow.core.errors import UsageError
from hedgerow.io.keys import (
    Identity,
    is_public,
    read_secret,
    sync_directory,
    write_secret,
)

MESSAGE_BYTES_MAX: Final = 8 * 2**20
FLEET_NAME: Final = re.compile(r"[a-z0-9-]{1,32}")
FOR_EVER: Final = 253_402_300_799  # the last second of the year 9999
ROLES: Final = ("device", "join", "coordinator")

_CREDENTIALS: Final = """-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


@dataclass(frozen=True)
class Credentials:
    """A user JWT and the key it names: what one connection logs in with."""

    jwt: str
    identity: Identity

    def save(self, path: Path) -> None:
        """Write a NATS credentials file that only its owner may read; keep one that is there."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, _CREDENTIALS.format(jwt=self.jwt, seed=self.identity.seed_text()))

    @classmethod
    def load(cls, path: Path) -> Credentials:
        """Read a NATS credentials file. Raises UsageError when it is missing, open or broken."""
        lines = [line.strip() for line in read_secret(path).splitlines()]
        bare = [line for line in lines if line and not line.startswith("-")]
        if len(bare) != 2:
            raise UsageError(f"{path} is no NATS credentials file: wanted a JWT and a seed in it")
        return cls(bare[0], Identity(bare[1]))


@dataclass(frozen=True)
class Enroller:
    """Makes devices, and can make nothing else. Pure computation: no clock, no network."""

    signing: Identity
    account: str

    def issue_device(self, public: str, now: float, expires_at: float | None = None) -> str:
        """A device JWT for the key `public` (`U…`), valid until `expires_at` in Unix seconds.

        Raises UsageError when `public` is no user key.
        """
        return _user_jwt(self.signing, self.account, public, "device", now, expires_at)


class Authority:
    """All keys of one fleet in one directory of mode 0700."""

    def __init__(self, directory: Path, fleet: str, now: float) -> None:
        self.directory = directory
        self.fleet = fleet
        self._operator = Identity.load_or_create(directory / "operator.nk", "operator")
        self._system = Identity.load_or_create(directory / "system.nk", "account")
        self._account = Identity.load_or_create(directory / "account.nk", "account")
        self._signing = {
            role: Identity.load_or_create(directory / f"signing-{role}.nk", "account")
            for role in ROLES
        }
        self.enroller: Final = Enroller(self._signing["device"], self._account.public)
        self.join_credentials: Final = self._credentials("join", now)
        self.coordinator_credentials: Final = self._credentials("coordinator", now)

    @classmethod
    def load_or_create(cls, directory: Path, fleet: str, now: float) -> Self:
        """The authority of `fleet` kept in `directory`; made there when there is none.

        Raises UsageError for a bad fleet name, or a directory made for another fleet.
        """
        require_fleet_name(fleet)
        directory = Path(directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name_file = directory / "fleet"
        if not name_file.exists():
            write_secret(name_file, fleet + "\n")
        kept = read_secret(name_file).strip()
        if kept != fleet:
            raise UsageError(
                f"{directory} holds the keys of fleet {kept!r}, not {fleet!r}; choose another"
            )
        return cls(directory, fleet, now)

    def issue_device(self, public: str, now: float, expires_at: float | None = None) -> str:
        """As `Enroller.issue_device`."""
        return self.enroller.issue_device(public, now, expires_at)

    def revoke(self, public: str) -> None:
        """Void every JWT of `public`, also one issued later: the device makes a new key to return.

        `EmbeddedServer.reload()` cuts it off at once, and every later start keeps it out.
        """
        if not is_public(public):
            raise UsageError(
                f"cannot revoke {public!r}: wanted a user public key, U and 55 characters"
            )
        path = self.directory / "revocations.json"
        draft = path.with_suffix(".draft")
        with draft.open("w", encoding="ascii") as file:
            json.dump({**self.revocations(), public: FOR_EVER}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_directory(self.directory)

    def revocations(self) -> dict[str, int]:
        """Revoked public keys, and the Unix second up to which their JWTs are void."""
        try:
            with (self.directory / "revocations.json").open(encoding="ascii") as file:
                kept: dict[str, int] = json.load(file)
        except FileNotFoundError:
            return {}
        return kept

    @property
    def system_account(self) -> str:
        """Public key of the server's own account. Nobody has credentials for it."""
        return self._system.public

    def operator_jwt(self, now: float) -> str:
        """The self-signed operator JWT for the server's settings."""
        nats = {"type": "operator", "version": 2, "system_account": self._system.public}
        return _encode(self._operator, self._operator.public, f"{self.fleet} operator", now, nats)

    def account_jwts(self, now: float, disk_bytes_max: int) -> dict[str, str]:
        """Account public key → JWT, for the server's resolver; `disk_bytes_max` for its streams."""
        signing_keys = [
            {
                "kind": "user_scope",
                "key": self._signing[role].public,
                "role": role,
                "template": template,
            }
            for role, template in role_templates(self.fleet).items()
        ]
        fleet = _account(
            {
                "mem_storage": 64 * 2**20,
                "disk_storage": disk_bytes_max,
                "streams": 3,
                "consumer": 64,
            }
        )
        fleet["signing_keys"] = signing_keys
        fleet["revocations"] = self.revocations()
        system = _account({})
        return {
            self._account.public: _encode(
                self._operator, self._account.public, self.fleet, now, fleet
            ),
            self._system.public: _encode(
                self._operator, self._system.public, "system", now, system
            ),
        }

    def _credentials(self, role: str, now: float) -> Credentials:
        path = self.directory / f"{role}.creds"
        if not path.exists():
            identity = Identity.create()
            jwt = _user_jwt(
                self._signing[role], self._account.public, identity.public, role, now, None
            )
            Credentials(jwt, identity).save(path)
        return Credentials.load(path)


def role_templates(fleet: str) -> dict[str, dict[str, Any]]:
    """What each role may publish and subscribe. The server puts the user's public key for
    `{{subject()}}`, so one template confines every device to its own subjects.
    """
    bucket = f"{fleet}-models"
    device = "{{subject()}}"
    return {
        "device": _template(
            publish=[
                f"hedgerow.{fleet}.up.{device}.>",
                # Reading single stored messages. No device gets the right to make a consumer: a
                # push consumer delivers to any subject its maker names, also another device's.
                f"$JS.API.DIRECT.GET.OBJ_{bucket}",
                f"$JS.API.DIRECT.GET.OBJ_{bucket}.>",
            ],
            subscribe=[
                f"hedgerow.{fleet}.down.{device}",
                f"hedgerow.{fleet}.all",
                f"_INBOX.{device}.>",
            ],
            subscriptions_max=16,
            message_bytes_max=MESSAGE_BYTES_MAX,
        ),
        "join": _template(
            publish=[f"hedgerow.{fleet}.enrol.*"],
            subscribe=[f"hedgerow.{fleet}.enrolled.*"],
            subscriptions_max=4,
            message_bytes_max=16 * 2**10,
        ),
        "coordinator": _template(
            publish=[
                f"hedgerow.{fleet}.down.*",
                f"hedgerow.{fleet}.all",
                f"hedgerow.{fleet}.enrolled.*",
                f"$O.{bucket}.>",
                "$JS.API.>",
                "$JS.FC.>",
            ],
            subscribe=[
                f"hedgerow.{fleet}.up.*.note",
                f"hedgerow.{fleet}.enrol.*",
                f"_INBOX.{device}.>",
            ],
            subscriptions_max=-1,
            message_bytes_max=-1,
        ),
    }


def require_fleet_name(fleet: str) -> None:
    """Raise UsageError unless `fleet` can stand in a subject."""
    if FLEET_NAME.fullmatch(fleet) is None:
        raise UsageError(f"fleet name {fleet!r}: wanted 1 to 32 of a-z, 0-9 and -")


def _template(
    publish: list[str], subscribe: list[str], subscriptions_max: int, message_bytes_max: int
) -> dict[str, Any]:
    return {
        "pub": {"allow": publish},
        "sub": {"allow": subscribe},
        "subs": subscriptions_max,
        "data": -1,
        "payload": message_bytes_max,
        "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
    }


def _account(limits: Mapping[str, int]) -> dict[str, Any]:
    unlimited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    return {
        "type": "account",
        "version": 2,
        "limits": {**dict.fromkeys(unlimited, -1), "wildcards": True, **limits},
        "default_permissions": {"pub": {}, "sub": {}},
        "authorization": {},
    }


def _user_jwt(
    signing: Identity, account: str, public: str, role: str, now: float, expires_at: float | None
) -> str:
    if not is_public(public):
        raise UsageError(f"no {role} for {public!r}: wanted a user public key, U and 55 characters")
    # No permissions and no limits of its own: the server takes the role's, and refuses others.
    nats = {"type": "user", "version": 2, "issuer_account": account, "pub": {}, "sub": {}}
    return _encode(signing, public, f"{role} {public[:8]}", now, nats, expires_at)


def _encode(
    issuer: Identity,
    subject: str,
    name: str,
    now: float,
    nats: Mapping[str, Any],
    expires_at: float | None = None,
) -> str:
    claims: dict[str, Any] = {"iat": int(now), "iss": issuer.public, "name": name, "sub": subject}
    if expires_at is not None:
        claims["exp"] = int(expires_at)
    claims["nats"] = nats
    digest = hashlib.new("sha512_256", _json(claims)).digest()
    claims["jti"] = base64.b32encode(digest).decode("ascii").rstrip("=")
    signed = f"{_base64(_json({'typ': 'JWT', 'alg': 'ed25519-nkey'}))}.{_base64(_json(claims))}"
    return f"{signed}.{_base64(issuer.sign(signed.encode('ascii')))}"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode("ascii")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")
