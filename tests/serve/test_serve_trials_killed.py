"""Power goes at a third of all steps of a trial: one valid model decides at each instant.

`SOAK_DEATHS_STEP=1`, as in `make soak`, takes every step.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from hedgerow.model.bundle import Bundle
from tests.serve.bad_models import GOOD
from tests.serve.hosting import ROOT

pytestmark = pytest.mark.timeout(600)  # a hundred devices or lives, on whatever machine this is


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    home = tmp_path_factory.mktemp("dying")
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.dying_device", str(home)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_died_everywhere_and_started_everywhere(deaths: list[dict[str, Any]]) -> None:
    *killed, last = deaths
    assert len(killed) > 20
    assert {one["code"] for one in killed} == {-9}
    assert last["code"] > 0
    assert {one["after"]["phase"] for one in killed} == {"", "checking", "shadow", "watched"}


def test_what_decides_is_the_old_model_or_the_new_one_and_both_were_met(
    deaths: list[dict[str, Any]],
) -> None:
    """`look` in `dying_device` compares every weight with those of one of the two bundles."""
    old: Bundle = GOOD
    assert {one["after"]["active"] for one in deaths} == {old.manifest.version, "other"}


def test_nothing_was_put_to_use_before_it_was_durable(deaths: list[dict[str, Any]]) -> None:
    for one in deaths:
        after = one["after"]
        if after["used"] == ["other"]:
            assert after["active"] == "other" or "rolled_back" in after["past"], one


def test_each_goes_on_to_the_same_end(deaths: list[dict[str, Any]]) -> None:
    for one in deaths:
        assert one["end"]["active"] == GOOD.manifest.version, one
        assert one["end"]["past"] == ["kept", "rolled_back"], one
