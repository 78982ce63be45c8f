"""For every test: reproducible examples, no settings from outside, and no silent skips."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

SKIPS_ALLOWED: frozenset[str] = frozenset(
    {"CC BY-NC-SA: only where somebody ran `hedgerow data fetch bearings`"}
)
"""Why a test may be skipped. Any other skip fails: what does not run proves nothing."""

settings.register_profile("hedgerow", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("hedgerow")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEDGEROW_")]:
        monkeypatch.delenv(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in SKIPS_ALLOWED:
        report.outcome = "failed"
        report.longrepr = (
            f"skipped ({reason}), and SKIPS_ALLOWED in tests/conftest.py does not hold that reason;"
            " make the test run, or give its reason there"
        )
