"""The tables of a device's store, and how older ones become these."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 2

_WINDOWS: Final = """
CREATE TABLE windows (
  id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, start REAL NOT NULL,
  seconds REAL NOT NULL, label INTEGER NOT NULL, purpose TEXT NOT NULL, added REAL NOT NULL,
  x BLOB NOT NULL) STRICT;
CREATE INDEX windows_purpose ON windows (purpose, id);
CREATE INDEX windows_stream ON windows (stream, start, label);
"""
_OUTBOX: Final = """
CREATE TABLE outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  priority INTEGER NOT NULL, stream TEXT NOT NULL, since REAL NOT NULL, created REAL NOT NULL,
  added REAL NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX outbox_order ON outbox (priority, number, size);
"""
_NOTICES: Final = """
CREATE TABLE notices (
  id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, time REAL NOT NULL,
  alert INTEGER NOT NULL, added REAL NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX notices_stream ON notices (stream, id);
CREATE INDEX notices_alert ON notices (alert, id);
CREATE TABLE given_labels (
  id INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, start REAL NOT NULL,
  until REAL NOT NULL, label TEXT NOT NULL, given REAL NOT NULL) STRICT;
"""

SCHEMA: Final = f"""
{_WINDOWS}
{_OUTBOX}
{_NOTICES}
CREATE TABLE facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE blobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, sha256 TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
  body BLOB NOT NULL) STRICT;
CREATE TABLE drops (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
CREATE TABLE window_shape (one INTEGER PRIMARY KEY CHECK (one = 1), shape TEXT NOT NULL) STRICT;
"""

MIGRATIONS: Final = {
    # What was kept is as old as the day of the migration: no clock of the store ran before.
    1: f"""
ALTER TABLE windows RENAME TO windows_1;
ALTER TABLE outbox RENAME TO outbox_1;
DROP INDEX windows_purpose; DROP INDEX windows_start; DROP INDEX outbox_order;
{_WINDOWS}
{_OUTBOX}
{_NOTICES}
INSERT INTO windows SELECT id, '', start, 0.0, label, purpose, 0.0, x FROM windows_1 ORDER BY id;
INSERT INTO outbox SELECT number, id, kind, priority, '', created, created, 0.0,
  length(body) + length(id) + 100, body FROM outbox_1 ORDER BY number;
DROP TABLE windows_1; DROP TABLE outbox_1;
""",  # noqa: S608 - no value in it
}
"""Layout → what makes the next one of it, run in one transaction."""
