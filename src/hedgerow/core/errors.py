"""Errors. Each states what came, what was wanted and what to do next.

Two families, because they need different answers: `UsageError` is ours or the operator's to
mend; `PeerError` is what another party sent and says nothing against this process.
"""


class HedgerowError(Exception):
    """Base of everything Hedgerow raises on purpose."""


class UsageError(HedgerowError):
    """The caller, a setting or a local file is wrong; the message says how to mend it."""


class ProtocolBug(HedgerowError):
    """A machine got an event its state does not allow: a bug on our side.

    Names the event, the role and the state.
    """

    def __init__(self, role: str, state: str, event: str) -> None:
        super().__init__(f"{role} in state {state!r} cannot take event {event!r}")


class PeerError(HedgerowError):
    """Another party sent something that cannot be used. `reason` is a stable word to count by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
