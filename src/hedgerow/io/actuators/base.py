"""What an actuator is, for those that ship and for anybody's own.

An actuator is one frozen struct: its fields are its settings, `open` connects and gives a function
that acts. A package adds its own by an entry point in the group `hedgerow.actuators`:

    class Lamp(Actuator, frozen=True, kw_only=True, forbid_unknown_fields=True):
        pin: int

        @contextlib.asynccontextmanager
        async def open(self, around):
            with open_pin(self.pin) as pin:
                async def act(notices):
                    pin.set(any(notice.alert for notice in notices))
                yield act
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, TypeAlias

import msgspec

from hedgerow.core.errors import HedgerowError
from hedgerow.decide.notice import Notice
from hedgerow.io.surroundings import Surroundings

Act: TypeAlias = Callable[[Sequence[Notice]], Awaitable[None]]
When: TypeAlias = Literal["alert", "change", "always"]
"""Which notices: where alerts begin and end, these and changes of label, or every decision."""


class ActuatorDown(HedgerowError):
    """What acts cannot be reached; the agent opens it again after a pause, and counts the loss."""


class Actuator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all actuators; a subclass adds its settings as fields."""

    when: When = "change"

    def open(self, around: Surroundings) -> AbstractAsyncContextManager[Act]:
        """Connect; gives what acts on notices that `when` lets through, oldest first.

        The agent calls it with one batch at a time, and not again before it returned. What leaves
        the device is told to `around.egress`.

        Raises:
            ActuatorDown: on opening or on acting; the agent opens it again.
            UsageError: the settings cannot work; the agent stops and says so.
        """
        raise NotImplementedError
