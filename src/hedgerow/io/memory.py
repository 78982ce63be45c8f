"""What a process has resident, and giving back what only its start needed."""

import ctypes
import sys
from pathlib import Path

_MADV_DONTNEED = 4


def resident_bytes(process: int, field: str = "VmRSS") -> int:
    """`VmRSS` or, as its peak, `VmHWM` of a process by its number (Linux; 0 elsewhere)."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def release_startup_pages() -> None:
    """Let go of program code that start-up touched; what is used again is mapped again, unread.

    Importing NumPy and ONNX Runtime and opening a session touches some 30 MB of machine code, most
    of it once. Only executable file mappings are let go: they are never written to, so nothing can
    be lost. Linux; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None, use_errno=True)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == "r-xp" and fields[5].startswith("/"):
            first, last = (int(address, 16) for address in fields[0].split("-"))
            library.madvise(first, last - first, _MADV_DONTNEED)
