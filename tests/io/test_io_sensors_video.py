"""Pictures: files that FFmpeg makes and reads, a stream over HTTP, FFmpeg's own test camera."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from hedgerow.core.errors import UsageError
from hedgerow.io.sensors.base import Block, Reading, SensorDown
from tests.io.industrial import free_port
from tests.io.sensing import Clock, around, blocks, first, gaps, joined, sensor

START = Clock().now()


def film(path: Path, pictures: list[NDArray[np.uint8]], rate: int = 10) -> str:
    """Pictures `[height, width, 3]` without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


def flat(*levels: int, side: int = 16) -> list[NDArray[np.uint8]]:
    return [np.full((side, side, 3), level, np.uint8) for level in levels]


def names(count: int) -> list[str]:
    return [f"pixel_{at}" for at in range(count)]


def seen(
    source: str, channels: int = 4, rate_hz: float = 10.0, count: int = 10**6, **settings: object
) -> list[Block]:
    settings = {"width": 2, "height": 2, "speed": math.inf, **settings}
    given = sensor("video", source=source, **settings)
    surroundings = around(names(channels), rate_hz, clock=Clock())
    return blocks(asyncio.run(first(given, surroundings, count)))


def test_every_frame_is_a_sample_of_its_pixels(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mkv", flat(0, 51, 102, 153, 204, 255))
    ours = seen(file)
    assert ours[0].stream == "press 4" and ours[0].time_seconds == START
    np.testing.assert_allclose(joined(ours), np.repeat(np.arange(6)[:, None] / 5, 4, 1), atol=0.01)
    assert max(map(abs, gaps(ours, 10)), default=0) < 0.01


def test_pixels_are_row_by_row_and_colours_one_after_the_other(tmp_path: Path) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:8, 8:] = (255, 0, 0)  # red in the upper right quarter
    picture[8:, :8] = (0, 0, 255)  # blue in the lower left one
    ours = joined(seen(film(tmp_path / "a.mkv", [picture] * 2), 12, values="colour"))
    np.testing.assert_allclose(ours[0], [0, 1, 0, 0] + [0] * 4 + [0, 0, 1, 0], atol=0.02)
    grey = joined(seen(film(tmp_path / "b.mkv", [picture] * 2)))[0]
    np.testing.assert_allclose(grey, [0, 0.299, 0.114, 0], atol=0.02)  # BT.601


def test_motion_is_how_much_each_pixel_changed(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mkv", flat(0, 0, 255, 255, 51))
    moved = joined(seen(file, values="motion"))[:, 0]
    np.testing.assert_allclose(moved, [0, 0, 1, 0, 0.8], atol=0.01)


def test_a_fast_camera_is_thinned_and_a_slow_one_holds(tmp_path: Path) -> None:
    levels = list(range(0, 240, 8))
    file = film(tmp_path / "a.mkv", flat(*levels))
    thin = joined(seen(file, rate_hz=2.0))[:, 0] * 255
    np.testing.assert_allclose(thin, levels[::5], atol=2)
    ours = seen(film(tmp_path / "b.mkv", flat(*levels[:4])), rate_hz=30.0)
    held = joined(ours)[:, 0] * 255
    np.testing.assert_allclose(held, np.r_[0, np.repeat([8, 16, 24], 3)], atol=2)
    assert max(map(abs, gaps(ours, 30)), default=0) < 0.01


def test_real_time_is_kept_and_a_loop_pauses(tmp_path: Path) -> None:
    file = film(tmp_path / "a.mkv", flat(*[0] * 20))
    given = sensor("video", source=file, width=2, height=2, speed=4.0, loop=True)
    clock = Clock()

    async def run() -> list[Reading]:
        taken: list[Reading] = []
        batches = given.batches(around(names(4), 10, clock=clock))
        async for batch in batches:
            taken += batch
            if sum(len(block.samples) for block in blocks(taken)) >= 30:
                break
        await batches.aclose()
        return taken

    ours = blocks(asyncio.run(run()))
    wide = [gap for gap in gaps(ours, 10) if abs(gap) > 0.5]
    assert len(wide) >= 1 and wide[0] == pytest.approx(19, abs=0.1)  # two seconds, less a frame
    last = ours[-1].time_seconds + len(ours[-1].samples) / 10 - START
    assert clock.passed == pytest.approx(last / 4)


def test_a_camera_of_ffmpeg_streams_until_it_is_closed() -> None:
    ours = seen("testsrc=size=64x48:rate=20", 4 * 3, 10.0, count=3, format="lavfi", values="colour")
    frames = joined(ours)
    assert frames.shape[1] == 12 and 0 < frames.mean() < 1
    assert max(map(abs, gaps(ours, 10)), default=0) < 0.01


CAMERA = """
import sys, time, av, numpy as np
while True:
    try:
        with av.open(sys.argv[1], "w", format="rtsp", options={"rtsp_transport": "tcp"}) as out:
            stream = out.add_stream("mpeg4", rate=20)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(10**6):
                picture = np.full((48, 64, 3), number % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                for packet in stream.encode(frame):
                    out.mux(packet)
                time.sleep(0.05)
    except ConnectionError:  # nobody listens yet, or any more
        time.sleep(0.1)
"""


def test_a_camera_over_rtsp_gives_even_samples_on_our_clock() -> None:
    # A camera that pushes: then the sensor's side of FFmpeg is the one that listens.
    url = f"rtsp://127.0.0.1:{free_port()}/camera"
    camera = subprocess.Popen([sys.executable, "-c", CAMERA, url])
    try:
        given = sensor(
            "video",
            source=url,
            width=2,
            height=2,
            timeout_seconds=60,
            options={"rtsp_flags": "listen", "listen_timeout": "60"},
        )
        surroundings = around(names(4), 10)
        ours = blocks(asyncio.run(first(given, surroundings, 10)))
    finally:
        camera.kill()
        camera.wait()
    assert abs(ours[-1].time_seconds - surroundings.now()) < 60
    levels = joined(ours)[:, 0]
    assert (np.diff(levels) >= 0).all() and levels[-1] > levels[0]
    # A machine that stops for a moment makes a gap, and says so; else they are even.
    assert sum(abs(gap) > 0.01 for gap in gaps(ours, 10)) <= 1


@contextmanager
def served(content: bytes, status: int = 200) -> Iterator[str]:
    """A camera's web server, which wants a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != "Basic bWU6cEBzcw==":  # me:p@ss
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.end_headers()
                return
            self.send_response(status)
            self.send_header("Content-Type", "video/x-matroska")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/stream.mkv"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_camera_on_the_network_with_a_password_that_is_told_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    film(tmp_path / "a.mkv", flat(*[255] * 30))
    monkeypatch.setenv("CAMERA", "p@ss")
    settings: dict[str, Any] = {"user": "me", "password": "env:CAMERA"}
    with served((tmp_path / "a.mkv").read_bytes()) as url:
        ours = seen(url, count=1, **settings)
        assert joined(ours).max() == pytest.approx(1, abs=0.01)
        with pytest.raises(SensorDown, match="ended; it is opened again"):
            seen(url, **settings)  # a camera does not end
        monkeypatch.setenv("CAMERA", "s3cr3t")
        with pytest.raises(SensorDown, match="password") as refused:
            seen(url, **settings)
    assert "s3cr3t" not in f"{refused.value}{caplog.text}"


@pytest.mark.parametrize(
    ("source", "settings", "error", "said"),
    [
        ("none.mkv", {}, UsageError, r"cannot open none\.mkv"),
        ("/dev/video99", {}, SensorDown, "plug the camera in"),
        ("rtsp://127.0.0.1:9/1", {"timeout_seconds": 2}, SensorDown, r"rtsp://127\.0\.0\.1:9/1: "),
        ("a.mkv", {"width": 3}, UsageError, "3 × 2 × 1 are 6 values; the model has 4"),
        ("a", {"format": "none"}, UsageError, "no format 'none'"),
    ],
)
def test_a_source_that_cannot_be_seen_says_why(
    source: str, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        seen(source, **settings)


def test_what_holds_no_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="convert it with ffmpeg"):
        seen(str(tmp_path / "a.mkv"))
    with pytest.raises(UsageError, match="source holds a password"):
        sensor("video", source="rtsp://me:secret@camera/1", width=1, height=1)
