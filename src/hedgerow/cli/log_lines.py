"""How log lines look: for people, for the journal of systemd, or one JSON object a line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec

Format = Literal["human", "json"]
FORMATS: Final[tuple[Format, ...]] = ("human", "json")

_PRIORITIES: Final = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
"""syslog(3) priorities, which sd-daemon(3) reads from the front of a line."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def log_formatter(
    format: Format, stream: TextIO, environment: Mapping[str, str]
) -> logging.Formatter:
    """The formatter for lines that go to `stream`.

    Human lines that systemd reads carry a priority, and no time: the journal has its own.
    """
    if format == "json":
        return JsonLines()
    if _is_journal(stream, environment):
        return JournalLines("%(name)s: %(message)s")
    return PlainLines("%(asctime)s %(levelname)s %(name)s: %(message)s")


class JsonLines(logging.Formatter):
    """`time` (RFC 3339, UTC), `level`, `logger`, `message`; `error` with a traceback; extras."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line."""
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        extras = {name: vars(record)[name] for name in vars(record).keys() - _OF_EVERY_RECORD}
        return msgspec.json.encode(fields | extras, enc_hook=str, order="deterministic").decode()


class PlainLines(logging.Formatter):
    """For people: what came from elsewhere cannot steer the terminal that shows it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, without control characters but ends of lines and tabs."""
        return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().format(record))


class JournalLines(PlainLines):
    """A priority in front of each line, so that `journalctl -p warning` finds it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, of one line or more."""
        priority = _PRIORITIES.get(record.levelno, 6)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{priority}>{line}" for line in lines)


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `JOURNAL_STREAM`, device and inode, is what we write to (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
