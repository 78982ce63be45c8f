import base64
import hashlib

import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from hedgerow.core.errors import PeerError
from hedgerow.ledger.note import Checkpoint, key_id, opened, signed

SEED = bytes(range(32))
SIGNING = SigningKey(SEED)
KEY = bytes(SIGNING.verify_key)
POINT = Checkpoint("hedgerow.egress/me", 7, hashlib.sha256(b"seven").digest(), 1.25)


def sign(data: bytes) -> bytes:
    return bytes(SIGNING.sign(data).signature)


def verify(data: bytes, signature: bytes) -> bool:
    try:
        SIGNING.verify_key.verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def test_a_note_is_text_as_the_specification_has_it() -> None:
    note = signed(POINT, KEY, sign)
    head = base64.b64encode(POINT.head).decode()
    text = f"hedgerow.egress/me\n7\n{head}\ntime 1.25\n"
    stamp = base64.b64encode(key_id("hedgerow.egress/me", KEY) + sign(text.encode())).decode()
    assert note == f"{text}\n— hedgerow.egress/me {stamp}\n"


def test_the_key_id_is_that_of_the_published_example() -> None:
    # C2SP signed-note: PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW
    key = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert key[0] == 1
    assert key_id("PeterNeumann", key[1:]).hex() == "c74f20a3"


def test_what_was_signed_comes_out() -> None:
    assert opened(signed(POINT, KEY, sign), KEY, verify) == POINT


def test_another_signature_may_stand_beside_it() -> None:
    note = signed(POINT, KEY, sign)
    witness = f"— example.com/witness {base64.b64encode(bytes(76)).decode()}\n"
    assert opened(note + witness, KEY, verify) == POINT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda note: note.replace("\n7\n", "\n8\n"), "forged"),
        (lambda note: note.replace("time 1.25", "time 2.25"), "forged"),
        (lambda note: note.partition("\n\n")[0], "malformed"),
        (lambda note: note.partition("—")[0], "unsigned"),
        (lambda note: note.replace("\n7\n", "\n07\n"), "malformed"),
        (lambda note: note.replace("\n7\n", "\nseven\n"), "malformed"),
        (lambda note: note.replace("egress/me", "egress/you", 1), "unsigned"),
        (lambda note: "x" * 5_000, "malformed"),
        (lambda note: "a\nb\n\n", "malformed"),
    ],
)
def test_a_changed_note_is_refused(change: object, reason: str) -> None:
    assert callable(change)
    with pytest.raises(PeerError) as error:
        opened(change(signed(POINT, KEY, sign)), KEY, verify)
    assert error.value.reason == reason


def test_a_note_by_another_key_is_refused() -> None:
    with pytest.raises(PeerError, match="no signature by the key"):
        opened(signed(POINT, bytes(32), sign), KEY, verify)
