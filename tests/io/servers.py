"""Real servers for tests: a PostgreSQL in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """A new cluster on a socket inside `directory`; gives its SQLAlchemy URL.

    The programs are Debian's package `postgresql`, or those on PATH. They refuse to run as root,
    so root runs them as `nobody`.
    """
    programs = _programs()
    data, sockets = directory / "data", directory / "s"
    sockets.mkdir(parents=True)
    as_user: list[str] = []
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        as_user = [
            "setpriv",
            f"--reuid={nobody.pw_uid}",
            f"--regid={nobody.pw_gid}",
            "--clear-groups",
        ]
        for made in (directory, sockets):
            os.chown(made, nobody.pw_uid, nobody.pw_gid)
    _run(
        [
            *as_user,
            programs / "initdb",
            "-D",
            data,
            "-U",
            "hedgerow",
            "--auth=trust",
            "--no-sync",
            "--locale=C",
            "--encoding=UTF8",
        ]
    )
    control: list[str | Path] = [*as_user, programs / "pg_ctl", "-D", data, "-w"]
    settings = f"-k {sockets} -c listen_addresses= -c fsync=off"
    _run([*control, "-l", directory / "log", "-o", settings, "start"])
    try:
        yield f"postgresql+psycopg://hedgerow@/postgres?host={sockets}"
    finally:
        _run([*control, "-m", "immediate", "stop"])


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        raise RuntimeError("no PostgreSQL found; install the Debian package postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _run(command: list[str | Path]) -> None:
    subprocess.run(
        command, check=True, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
