"""Giving back the code that start-up touched."""

import os
import subprocess
import sys

from hedgerow.io.memory import resident_bytes

SCRIPT = """
import os
import numpy, onnxruntime
from hedgerow.io.memory import release_startup_pages, resident_bytes
before = resident_bytes(os.getpid())
release_startup_pages()
after = resident_bytes(os.getpid())
assert after < 0.9 * before, (before, after)
assert numpy.linalg.inv(numpy.eye(3)).trace() == 3.0  # what was let go comes back when called
"""


def test_released_pages_come_back_when_they_are_needed() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_a_process_that_is_gone_has_nothing_resident() -> None:
    assert resident_bytes(2**22 + 1) == 0
    assert resident_bytes(os.getpid()) > 0
