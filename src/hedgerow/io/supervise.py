"""Telling systemd that we are ready and alive: the notify protocol, by the standard library alone.

A datagram of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names, as sd_notify(3) and
sd_watchdog_enabled(3) describe it. Outside systemd nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Supervisor:
    """Who watches this process: `address` of its socket ("": nobody), and how often it listens.

    `watchdog_seconds`: without a sign of life for so long the process is killed and started anew;
    None: no watchdog.
    """

    address: str = ""
    watchdog_seconds: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Supervisor:
        """From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, which systemd sets."""
        address = environment.get("NOTIFY_SOCKET", "")
        interval = environment.get("WATCHDOG_USEC", "")
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = meant and interval.isascii() and interval.isdigit() and int(interval) > 0
        return cls(address, int(interval) / 1e6 if watched else None)

    def ready(self, status: str = "") -> None:
        """Started: what was ordered after this unit may go on."""
        self._tell("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={status}")

    def stopping(self) -> None:
        """On the way out."""
        self._tell("STOPPING=1")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Give a sign of life twice an interval for as long as `healthy` says yes.

        Runs in the agent's own loop, so a loop that hangs gives none. Returns at once where there
        is no watchdog; run it as a task and cancel it at the end.
        """
        if self.watchdog_seconds is None:
            return
        well = True
        while True:
            before, well = well, healthy()
            if well:
                self._tell("WATCHDOG=1")
            elif before:
                log.error("not healthy: the supervisor gets no sign of life until that changes")
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines if not line.endswith("="))
        # An address that begins with @ is in the abstract name space: no file.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(message.encode(), address)
        except OSError as error:
            log.warning("cannot tell the supervisor at %s: %s", self.address, error)
