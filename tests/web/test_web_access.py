"""Pairing: one code, one browser, ten minutes, five tries."""

import stat
from pathlib import Path

import pytest

from hedgerow.core.errors import UsageError
from hedgerow.web.access import (
    ALPHABET,
    CODE_FILE,
    CODE_SECONDS,
    TOKEN_SECONDS,
    TOKENS_FILE,
    TOKENS_MAX,
    TRIES_MAX,
    Access,
    forget_paired,
    new_code,
    read_running,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(tmp_path, needed=True, now=clock)


def paired(access: Access, state: Path) -> str:
    token = access.pair(new_code(state, 1000.0))
    assert token is not None
    return token


def test_a_code_lets_one_browser_in_once(tmp_path: Path, access: Access) -> None:
    code = new_code(tmp_path, 1000.0)
    assert len(code) == 9
    assert set(code) - {"-"} <= set(ALPHABET)
    token = access.pair(code)
    assert token is not None
    assert access.admitted(token)
    assert access.pair(code) is None


def test_case_blanks_and_hyphens_do_not_matter(tmp_path: Path, access: Access) -> None:
    code = new_code(tmp_path, 1000.0)
    assert access.pair(f" {code.lower().replace('-', ' ')} ") is not None


def test_without_a_code_nothing_can_be_guessed(access: Access) -> None:
    assert access.pair("") is None
    assert access.pair("AAAA-AAAA") is None
    assert not access.admitted("")
    assert not access.admitted("0" * 64)


def test_a_code_is_void_after_ten_minutes(tmp_path: Path, access: Access, clock: Clock) -> None:
    code = new_code(tmp_path, 1000.0)
    clock.now = 1000.0 + CODE_SECONDS + 1
    assert access.pair(code) is None
    assert not (tmp_path / CODE_FILE).exists()


def test_a_code_is_void_after_five_wrong_tries(tmp_path: Path, access: Access) -> None:
    code = new_code(tmp_path, 1000.0)
    wrong = "2222-2222" if code != "2222-2222" else "3333-3333"
    for _ in range(TRIES_MAX):
        assert access.pair(wrong) is None
    assert access.pair(code) is None


def test_a_new_code_puts_the_one_before_out(tmp_path: Path, access: Access) -> None:
    first, second = new_code(tmp_path, 1000.0), new_code(tmp_path, 1000.0)
    assert access.pair(first) is None
    assert access.pair(second) is not None


def test_a_restart_keeps_the_paired_and_an_age_ends_it(
    tmp_path: Path, access: Access, clock: Clock
) -> None:
    token = paired(access, tmp_path)
    again = Access(tmp_path, needed=True, now=clock)
    assert again.admitted(token)
    clock.now += TOKEN_SECONDS + 1
    assert not again.admitted(token)


def test_the_token_of_a_run_ends_with_it(tmp_path: Path, access: Access) -> None:
    assert access.admitted(access.run_token)
    assert not Access(tmp_path, needed=True).admitted(access.run_token)


def test_all_can_be_turned_out(tmp_path: Path, access: Access) -> None:
    tokens = [paired(access, tmp_path) for _ in range(3)]
    assert forget_paired(tmp_path) == 3
    assert not any(access.admitted(token) for token in tokens)
    assert forget_paired(tmp_path) == 0


def test_the_paired_are_bounded_and_the_oldest_goes(tmp_path: Path, access: Access) -> None:
    tokens = [paired(access, tmp_path) for _ in range(TOKENS_MAX + 1)]
    assert not access.admitted(tokens[0])
    assert access.admitted(tokens[1])


def test_neither_code_nor_token_lies_in_a_file(tmp_path: Path, access: Access) -> None:
    code = new_code(tmp_path, 1000.0)
    assert code.replace("-", "") not in (tmp_path / CODE_FILE).read_text()
    token = access.pair(code)
    assert token is not None
    assert token not in (tmp_path / TOKENS_FILE).read_text()
    assert stat.S_IMODE((tmp_path / TOKENS_FILE).stat().st_mode) == 0o600


def test_a_file_that_others_may_read_is_refused(tmp_path: Path, access: Access) -> None:
    token = paired(access, tmp_path)
    (tmp_path / TOKENS_FILE).chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        access.admitted(token)


def test_a_damaged_file_lets_nobody_in(tmp_path: Path, access: Access) -> None:
    token = paired(access, tmp_path)
    (tmp_path / TOKENS_FILE).write_text("{")
    assert not access.admitted(token)
    new_code(tmp_path, 1000.0)
    (tmp_path / CODE_FILE).write_text("{")
    assert access.pair("AAAA-AAAA") is None


def test_no_pairing_where_none_is_needed(tmp_path: Path) -> None:
    assert Access(tmp_path, needed=False).admitted("")


def test_a_state_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--state"):
        new_code(tmp_path / "none", 0.0)
    assert read_running(tmp_path / "none") is None


def test_a_code_is_void_when_the_clock_was_set_back(
    tmp_path: Path, access: Access, clock: Clock
) -> None:
    code = new_code(tmp_path, 1000.0)
    clock.now = 990.0
    assert access.pair(code) is None
