"""A disk of its own, small enough to be filled: a tmpfs in a mount namespace, for one program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_on_small_disk(script: Path, home: Path, size: str) -> str:
    """Run `python script DISK` where DISK is a fresh file system of `size`; what it printed.

    Needs `unshare` and user namespaces, as any Linux of today has them.
    """
    disk = home / "disk"
    disk.mkdir()
    mounted = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && exec "$3" "$4" "$2"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted, "sh"),
            *(size, str(disk), sys.executable, str(script)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
