"""Topic templates: which stream a topic speaks of, and which topic speaks of a stream.

template = Topics("factory/{stream}/vibration")
template.filter                               # "factory/+/vibration", to subscribe
template.stream("factory/press-4/vibration")  # "press-4"
fill("hedgerow/{device}/{stream}", device="gate", stream="press-4")
"""

from __future__ import annotations

import re
from typing import Final

from hedgerow.core.errors import UsageError

TOPIC_BYTES_MAX: Final = 65_535
_PLACE: Final = "{stream}"
_SHARED: Final = re.compile(r"^\$share/[^/+#]+/")
_NAMED: Final = re.compile(r"\{(\w*)\}")
_FORBIDDEN: Final = re.compile(r"[+#\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Topics:
    """Topics of many streams. `{stream}` marks what of a topic names the stream.

    Without `{stream}` the levels that wildcards match name it, joined by `/`; without wildcards
    the topic itself is the stream's name.
    """

    def __init__(self, template: str) -> None:
        """Raises UsageError when `template` is no topic filter, or has two `{stream}`."""
        shared = _SHARED.match(template)
        plain = template[shared.end() :] if shared else template
        if plain.count(_PLACE) > 1 or "{" in plain.replace(_PLACE, "") or not plain:
            raise UsageError(
                f"topic {template!r} is no template; wanted a topic in which + or # may be "
                "wildcards and {stream} stands once for the name of the stream"
            )
        levels = plain.split("/")
        for place, level in enumerate(levels):
            lone_hash = level == "#" and place == len(levels) - 1
            if ("#" in level and not lone_hash) or ("+" in level and level != "+"):
                raise UsageError(
                    f"topic {template!r} has a wildcard inside a level, or # before the end; a "
                    "wildcard is a level of its own, and # the last"
                )
        asked = "/".join("+" if _PLACE in level else level for level in levels)
        self.filter: Final = shared.group() + asked if shared else asked
        named = _PLACE in plain
        pattern = "/".join(_pattern(level, named) for level in levels)
        # "a/#" matches "a" too (MQTT 5, 4.7.1.2).
        self._pattern = re.compile(re.sub(r"/\((\?:)?\.\*\)$", r"(?:/(\1.*))?", pattern))

    def stream(self, topic: str) -> str | None:
        """The stream that `topic` speaks of; None: the topic does not match."""
        found = self._pattern.fullmatch(topic)
        if found is None:
            return None
        return "/".join(part for part in found.groups() if part) or topic


def _pattern(level: str, named: bool) -> str:
    if _PLACE in level:
        before, after = level.split(_PLACE)
        return f"{re.escape(before)}([^/]+){re.escape(after)}"
    if level in ("+", "#"):
        inner = "[^/]*" if level == "+" else ".*"
        return f"(?:{inner})" if named else f"({inner})"
    return re.escape(level)


def fill(template: str, **names: str) -> str:
    """A topic to publish to; what a topic may not hold becomes `_`.

    Raises:
        UsageError: the template names something else than `names`, has wildcards, or is too long.
    """
    try:
        topic = _NAMED.sub(lambda found: _FORBIDDEN.sub("_", names[found[1]]), template)
    except KeyError as error:
        raise UsageError(
            f"topic {template!r} names {error}; it may use "
            f"{', '.join('{' + name + '}' for name in names)}"
        ) from None
    if not topic or _FORBIDDEN.search(topic) or len(topic.encode()) > TOPIC_BYTES_MAX:
        raise UsageError(f"topic {template!r} gives no topic to publish to; take wildcards out")
    return topic


def level(text: str) -> str:
    """`text` as one level of a topic: without `/`, wildcards and control characters."""
    return _FORBIDDEN.sub("_", text).replace("/", "_") or "_"
