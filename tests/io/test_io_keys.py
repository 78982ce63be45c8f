import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nkeys
import pytest

from hedgerow.core.errors import UsageError
from hedgerow.io.keys import Identity, is_public, verify


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity.nk"
    first = Identity.load_or_create(path)
    assert Identity.load_or_create(path).public == first.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["identity.nk"]


def test_starting_many_times_at_once_gives_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = [tmp_path / "identity.nk"] * 32
        publics = {identity.public for identity in pool.map(Identity.load_or_create, paths)}
    assert len(publics) == 1


def test_a_signature_holds_for_its_key_and_its_bytes_only() -> None:
    identity, other = Identity.create(), Identity.create()
    signature = identity.sign(b"update")
    assert len(signature) == 64
    assert verify(identity.public, b"update", signature)
    assert not verify(identity.public, b"updatE", signature)
    assert not verify(other.public, b"update", signature)
    assert not verify(identity.public, b"update", signature[:-1])
    assert not verify(identity.public, b"update", bytes(64))


def test_it_agrees_with_the_nats_library() -> None:
    identity = Identity.create()
    library = nkeys.from_seed(identity.seed_text().encode())
    assert library.public_key.decode() == identity.public
    assert verify(identity.public, b"nonce", library.sign(b"nonce"))


def test_what_is_no_public_key_verifies_nothing() -> None:
    public = Identity.create().public
    swapped = public[:-1] + ("A" if public[-1] != "A" else "B")
    for wrong in ("", "U", swapped, public.lower(), public + "A", "é" * 56, "1" * 56):
        assert not verify(wrong, b"", bytes(64))
        assert not is_public(wrong)
    assert is_public(public)
    assert not is_public(Identity.create("account").public)
    assert is_public(Identity.create("account").public, "account")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_seed_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.nk"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(UsageError, match="chmod 600"):
        Identity.load_or_create(path)


def test_a_directory_others_can_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UsageError, match="chmod 700"):
        Identity.load_or_create(shared / "identity.nk")


@pytest.mark.parametrize("text", ["", "SUAB", "é", "S" * 58, "U" * 56])
def test_a_file_that_holds_no_seed_is_refused_without_repeating_it(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "identity.nk"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="restore it from a copy"):
        Identity.load_or_create(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    Identity.load_or_create(tmp_path / "account.nk", "account")
    with pytest.raises(UsageError, match="another kind"):
        Identity.load(tmp_path / "account.nk")
    with pytest.raises(UsageError, match="no secret file"):
        Identity.load(tmp_path / "absent.nk")


def test_the_seed_is_not_shown_or_copied() -> None:
    identity = Identity.create()
    assert identity.seed_text() not in f"{identity!r} {identity}"
    with pytest.raises(UsageError, match="each makes its own"):
        pickle.dumps(identity)
