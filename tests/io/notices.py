"""Notices for tests of actuators."""

from typing import Any

from hedgerow.decide.notice import Notice

NOW = 1_700_000_000.0


def notice(stream: str = "press 4", **other: Any) -> Notice:
    """A decision about a press that runs well, unless told otherwise."""
    return Notice(
        **{
            "stream": stream,
            "time_seconds": NOW,
            "label": "normal",
            "confidence": 0.25,
            "reason": "normal at 0.25",
            "changed": False,
            "score": 0.5,
            "model": "vibration 1.2",
            **other,
        }
    )
