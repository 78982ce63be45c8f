import resource
import signal
import subprocess
import sys
from pathlib import Path

from tests.io.full_disk import run_on_small_disk

SCRIPT = Path(__file__).with_name("on_a_full_disk.py")
LIMITED = """
import sys, resource
from pathlib import Path
from hedgerow.io.device_store import DeviceStore, OutboxItem, StoreFull
path = Path(sys.argv[1])
store = DeviceStore(path / "device.db")
kept = 0
while store.put_outbox(OutboxItem(f"m{kept}", "exception", 8, 0.0, bytes(20_000))):
    kept += 1
    assert kept < 1_000
assert store.full and store.outbox_count() == kept and kept > 0
try:
    with store.transaction():
        store.put_outbox(OutboxItem("last", "exception", 8, 0.0, bytes(60_000)))
    raise SystemExit("written beyond the limit")
except StoreFull:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
assert store.put_outbox(OutboxItem("last", "exception", 8, 0.0, bytes(20_000)))
assert not store.full and store.outbox_count() == kept + 1
store.close()
print("recovered")
"""


def test_a_full_disk_costs_what_would_have_been_written_and_nothing_else(tmp_path: Path) -> None:
    said = run_on_small_disk(SCRIPT, tmp_path, "2m")
    assert "disk: No space left on device" in said
    assert "SQLITE_FULL" in said
    assert said.endswith("recovered\n")


def test_a_quota_is_a_full_disk_as_well(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "recovered\n"), done.stderr
