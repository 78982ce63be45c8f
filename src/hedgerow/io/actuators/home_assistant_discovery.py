"""What Home Assistant is told of a stream: its device, six entities, and their state.

Sources: Home Assistant's pages on MQTT discovery (device discovery payload), MQTT sensor and MQTT
binary sensor.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

import msgspec

import hedgerow
from hedgerow.decide.notice import Notice

STATE_CHARACTERS_MAX: Final = 255
"""The longest state that Home Assistant takes."""

_NOT_PLAIN: Final = re.compile(r"[^a-z0-9]+")


def slug(text: str) -> str:
    """`text` in lower-case letters, digits and `_`, as entity ids are; may be the same for two."""
    return _NOT_PLAIN.sub("_", text.lower()).strip("_") or "stream"


def unique(text: str) -> str:
    """A slug that no other text has: what the slug lost comes back as a hash."""
    plain = slug(text)
    if plain == text:
        return plain
    return f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


class Names:
    """Topics and ids. They hang on the names of device and stream alone, so that they stay."""

    def __init__(self, discovery_prefix: str, topic_prefix: str, device: str) -> None:
        self.prefixes: Final = (discovery_prefix, topic_prefix)
        self.device: Final = device
        self._device = unique(device)
        self.availability: Final = f"{topic_prefix}/{self._device}/availability"

    def id(self, stream: str) -> str:
        """The device's identifier, also what its entities' ids begin with."""
        return f"hedgerow_{self._device}_{unique(stream)}"

    def config(self, stream: str) -> str:
        """Where the device is announced; an empty message there removes it."""
        return f"{self.prefixes[0]}/device/{self.id(stream)}/config"

    def state(self, stream: str) -> str:
        """Where its state is published."""
        return f"{self.prefixes[1]}/{self._device}/{unique(stream)}/state"


_ENTITIES: Final[dict[str, dict[str, Any]]] = {
    "prediction": {
        "p": "sensor",
        "name": "Prediction",
        "icon": "mdi:creation",
        "value_template": "{{ value_json.prediction }}",
    },
    "confidence": {
        "p": "sensor",
        "name": "Confidence",
        "icon": "mdi:gauge",
        "state_class": "measurement",
        "suggested_display_precision": 3,
        "value_template": "{{ value_json.confidence }}",
    },
    "score": {
        "p": "sensor",
        "name": "Score",
        "icon": "mdi:chart-bell-curve",
        "state_class": "measurement",
        "suggested_display_precision": 2,
        "value_template": "{{ value_json.score }}",
    },
    "drift": {
        "p": "sensor",
        "name": "Drift",
        "icon": "mdi:trending-up",
        "state_class": "measurement",
        "suggested_display_precision": 2,
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.drift }}",
    },
    "model": {
        "p": "sensor",
        "name": "Model",
        "icon": "mdi:brain",
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.model }}",
    },
    "alert": {
        "p": "binary_sensor",
        "name": "Alert",
        "device_class": "problem",
        "payload_on": "ON",
        "payload_off": "OFF",
        "value_template": "{{ value_json.alert }}",
    },
}
"""Entities by their key: what is the same for all streams. Keys are part of ids: leave them."""


def discovery(names: Names, stream: str) -> bytes:
    """The announcement of a stream's device with all its entities."""
    identifier = names.id(stream)
    state_topic = names.state(stream)
    entities = {}
    for key, fixed in _ENTITIES.items():
        entities[key] = {
            **fixed,
            "unique_id": f"{identifier}_{key}",
            "default_entity_id": f"{fixed['p']}.{slug(stream)}_{key}",
        }
    for key in ("prediction", "alert"):
        entities[key]["json_attributes_topic"] = state_topic
        entities[key]["json_attributes_template"] = "{{ value_json.attributes | tojson }}"
    return msgspec.json.encode(
        {
            "dev": {
                "ids": [identifier],
                "name": stream,
                "mf": "Hedgerow",
                "mdl": f"Stream of {names.device}",
                "sw": hedgerow.__version__,
            },
            "o": {"name": "hedgerow", "sw": hedgerow.__version__},
            "cmps": entities,
            "state_topic": state_topic,
            "availability_topic": names.availability,
            "qos": 1,
        }
    )


def state(notice: Notice) -> bytes:
    """A stream's state; what is not known is null or `unknown`, which both show as unknown."""

    def number(value: float) -> float | None:
        return round(value, 6) if math.isfinite(value) else None

    return msgspec.json.encode(
        {
            "prediction": notice.label[:STATE_CHARACTERS_MAX] or "unknown",
            "confidence": number(notice.confidence),
            "score": number(notice.score),
            "drift": number(notice.drift),
            "model": notice.model[:STATE_CHARACTERS_MAX] or "unknown",
            "alert": "ON" if notice.alert else "OFF",
            "attributes": {
                "reason": notice.reason,
                "decided": notice.decided,
                "time": notice.time_seconds,
            },
        }
    )
