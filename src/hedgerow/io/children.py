"""Child processes that end when their parent ends, however it ends."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1


_KNOWN = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "HOME", "TMPDIR")


def bare_environment(*names: str, **values: str) -> dict[str, str]:
    """What of the environment a child may know, and `values`: the agent's secrets may be in the
    rest. `names` are more variables that it may have.
    """
    return {name: os.environ[name] for name in (*_KNOWN, *names) if name in os.environ} | values


def children_of(process: int, root: Path = Path("/")) -> list[int]:
    """The numbers of a process's children (Linux; none elsewhere, nor of one that is gone)."""
    children: list[int] = []
    for thread in (root / f"proc/{process}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            children += map(int, (thread / "children").read_text("utf-8").split())
    return children


def ends_with_parent() -> Callable[[], None]:
    """A `preexec_fn`: the kernel kills the child when the *thread* that forks it ends (Linux).

    Fork from a thread that lives as long as the process does.
    """
    library = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    parent = os.getpid()

    def bind() -> None:
        if library is not None:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return bind
