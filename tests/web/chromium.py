"""A headless Chromium spoken to over a pipe (DevTools protocol); no driver, no port."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
ANSWER_SECONDS_MAX = 60
MESSAGE_BYTES_MAX = 64 * 2**20


class Page:
    """One open tab. `log` collects what the page said on its console or broke its policy with."""

    def __init__(self, read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        self.log: list[str] = []
        self._read, self._write = read, write
        self._numbers = itertools.count(1)
        self._session = ""

    async def call(self, method: str, **parameters: object) -> Any:
        """Call a DevTools method and give its result."""
        number = next(self._numbers)
        message: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            while True:
                answer = json.loads((await self._read.readuntil(b"\0"))[:-1])
                if answer.get("id") == number:
                    assert "error" not in answer, f"{method}: {answer['error']}"
                    return answer["result"]
                if answer.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                    self.log.append(json.dumps(answer["params"]))

    async def attach(self) -> None:
        """Open a tab and talk to it from now on."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def look(self, width: int, height: int, scheme: str) -> None:
        """Set the window's size and the colour scheme (light or dark)."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        for _ in range(20 * ANSWER_SECONDS_MAX):
            if await self.value(expression) is True:
                return
            await asyncio.sleep(0.05)
        text = await self.value("document.body.innerText")
        raise AssertionError(f"never true: {expression}\n{text}\n{self.log}")

    async def picture(self, *, whole: bool) -> bytes:
        """A PNG of the window, or of the whole page."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(answer["data"])


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Page]:
    """A fresh browser with one empty tab."""
    program = shutil.which("chromium")
    assert program is not None, "this test needs a browser: apt-get install -y chromium"
    commands_out, commands_in = os.pipe()
    answers_out, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            f'exec "$0" "$@" 3<&{commands_out} 4>&{answers_in}',
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            pass_fds=(commands_out, answers_in),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(commands_out)
        os.close(answers_in)
        loop = asyncio.get_running_loop()
        read = asyncio.StreamReader(limit=MESSAGE_BYTES_MAX)
        read_end, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(read), os.fdopen(answers_out, "rb")
        )
        write_end, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(commands_in, "wb")
        )
        page = Page(read, asyncio.StreamWriter(write_end, protocol, None, loop))
        try:
            await page.attach()
            yield page
        finally:
            write_end.close()
            read_end.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
