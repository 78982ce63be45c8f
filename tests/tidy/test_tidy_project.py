"""Rules for the repository as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import hedgerow
from tests.tidy.sources import ROOT, project_files

# Written in halves, so that this file does not hold what it forbids.
FORBIDDEN = {
    "a path of one machine": r"(^|[^\w.-])/(" + "|".join(["wo" + "rk", "ro" + "ot"]) + ")/",
    "a home directory": "/(ho" + r"me|Users)/(?!you/)\w",
    "an address of a package registry": r"https?://\S*/sim"
    + "ple|(index-ur"
    + "l|regist"
    + "ry) *= *",
    "work left undone": r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b",
}
HEAVY = ("torch", "onnxruntime", "onnx", "sqlalchemy", "starlette", "rich", "nats")


def test_no_file_names_a_machine_a_registry_or_work_left_undone() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {what}: {line.strip()[:80]}"
        for path in project_files()
        if (text := _text(path)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        for what, pattern in FORBIDDEN.items()
        if re.search(pattern, line)
    ]
    assert found == []


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return None


def test_importing_hedgerow_imports_nothing_heavy() -> None:
    assert _imported_by("import hedgerow").isdisjoint(HEAVY)


def test_help_imports_nothing_heavy() -> None:
    assert _imported_by(
        "from hedgerow.cli import main; main(['--help'], standalone_mode=False)"
    ).isdisjoint(HEAVY)


def _imported_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys; print('|'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.splitlines()[-1].split("|"))


def test_the_changelog_has_the_current_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## {re.escape(hedgerow.__version__)}\b", changelog, re.MULTILINE)


def test_every_direct_dependency_is_pinned_and_no_pin_holds_an_address() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = {_plain(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    wanted = {_plain(name) for name in re.findall(r'"([\w.-]+)(?:\[\w+\])?>=', project)}
    assert wanted - pinned - {"hatchling"} == set()
    assert "://" not in pins


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
