"""Where in a JSON document something is: a part of JSONPath (RFC 9535).

    Path("$.data[0].x").find({"data": [{"x": 1.5}]})        # 1.5
    Path("$.rows[*].x").find({"rows": [{"x": 1}, {"x": 2}]})  # [1, 2]

Child names, indices (negative ones from the end) and the wildcard of arrays; no filters, no slices.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

from hedgerow.core.errors import UsageError

_STEP: Final = re.compile(
    r"""\.(?P<name>[^.\[\]\s'"*]+) | \['(?P<quoted>[^']+)'\] | \["(?P<double>[^"]+)"\]
      | \[(?P<index>-?\d{1,9})\] | (?P<all>\[\*\])""",
    re.VERBOSE,
)


class _All:
    """The wildcard."""


_Step: TypeAlias = str | int | type[_All]


class Path:
    """One compiled path."""

    __slots__ = ("_steps", "text")

    def __init__(self, text: str) -> None:
        """Raises UsageError when `text` is no path, or one with more than is known here."""
        self.text: Final = text
        steps: list[_Step] = []
        place = 1
        while text.startswith("$") and place < len(text):
            found = _STEP.match(text, place)
            if found is None:
                break
            if found["all"]:
                steps.append(_All)
            elif found["index"]:
                steps.append(int(found["index"]))
            else:
                steps.append(found["name"] or found["quoted"] or found["double"])
            place = found.end()
        if place != len(text) or not text.startswith("$"):
            raise UsageError(
                f"{text!r} is no path; wanted the likes of $.name, $.data[0].x, $['a b'] or "
                "$.rows[*].x"
            )
        self._steps: Final = tuple(steps)

    def find(self, document: Any) -> Any:
        """What is there; a list of all of them after a wildcard. Raises LookupError."""
        found = document
        for place, step in enumerate(self._steps):
            if step is _All:
                if not isinstance(found, list):
                    raise LookupError(f"{self.text}: no array where the wildcard is")
                return self._each(found, self._steps[place + 1 :])
            found = _child(found, step, self.text)
        return found

    def _each(self, items: list[Any], steps: tuple[_Step, ...]) -> list[Any]:
        if len(steps) == 1 and isinstance(steps[0], str):  # the usual one, without a call for each
            name = steps[0]
            try:
                return [item[name] for item in items]
            except (KeyError, TypeError):
                raise LookupError(f"{self.text}: not every element has {name!r}") from None
        found = items
        for place, step in enumerate(steps):
            if step is _All:
                rest = steps[place + 1 :]
                return [each for item in found for each in self._each(_array(item, self), rest)]
            found = [_child(item, step, self.text) for item in found]
        return found

    def __repr__(self) -> str:
        return f"Path({self.text!r})"


def _array(item: Any, path: Path) -> list[Any]:
    if not isinstance(item, list):
        raise LookupError(f"{path.text}: no array where the wildcard is")
    return item


def _child(item: Any, step: _Step, text: str) -> Any:
    if isinstance(step, str):
        if isinstance(item, dict) and step in item:
            return item[step]
    elif isinstance(step, int) and isinstance(item, list) and -len(item) <= step < len(item):
        return item[step]
    raise LookupError(f"{text}: nothing at {step!r}")
