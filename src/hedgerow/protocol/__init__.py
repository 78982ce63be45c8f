"""The protocol as functions: `step(state, event, now) -> (state, effects)`.

No sockets, files, clocks, threads or ambient randomness. A machine owns the state handed to it and
may return the same object; whoever wants to go back to an old state restores it from what was
saved. Effects are ordered data: first what must be kept, then what is sent, then timers.
"""
