"""`hedgerow device` as a process: Ctrl-C ends it, and all that it started, without a word."""

from pathlib import Path

from tests.bench.processes import Command


def test_ctrl_c_ends_it_and_its_models_process_without_a_traceback(tmp_path: Path) -> None:
    words = ("device", "--verbose", "--state", str(tmp_path / "state"))
    with Command(tmp_path, *words, "--set", "console.enabled=false") as command:
        command.wait_for("model watch 1 started", 60)
        command.interrupt()
        done = command.done(30)
        assert command.left_behind() == []
    assert done.code == 0
    assert "Traceback" not in done.err
