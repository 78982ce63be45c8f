"""Made-up fleets for tests: synthetic figures, nothing measured."""

from hedgerow.protocol.view import DeviceView, FleetView, RoundView, WearerRow

XSS = "<img src=x onerror=document.title='owned'>"
LABELS = ("pendulum", "abduction", "row", "trapezius raise", "inner rotation")
PHASES = ("counted", "training", "counted", "present", "training", "invited", "declined")


def device(number: int, name: str | None = None) -> DeviceView:
    """A device with made-up but plausible figures."""
    online = number % 10 != 9
    return DeviceView(
        id=f"U{number:055d}",
        name=f"wearer {number + 1}" if name is None else name,
        online=online,
        phase=PHASES[number % len(PHASES)] if online else "away",
        model_version=6,
        samples=1200,
        label=LABELS[number % len(LABELS)] if number % 10 != 7 else "",
        confidence=0.97 - 0.031 * (number % 10) if number % 10 != 7 else 0.0,
        reason="in 4 of the last 5 windows, above 80%" if number % 10 != 7 else "",
        accuracy=0.962 - 0.008 * (number % 10),
        accuracy_personalised=0.978 if number % 3 == 0 else None,
        bytes_up=641_000 + 1000 * number,
        bytes_down=590_000,
        bytes_kept=563_000 + 7_000 * number,
    )


def running(devices: int = 10, rounds: int = 6, planned: int = 20) -> FleetView:
    """A fleet in the middle of a round; one device tries to smuggle in markup."""
    entries = [device(number, XSS if number == 3 else None) for number in range(devices)]
    return FleetView(
        fleet="watch",
        app="watch",
        phase="open",
        round=rounds + 1,
        rounds_done=rounds,
        rounds_planned=planned,
        model_version=rounds,
        model_hash="5f" * 32,
        parameters=19_095,
        devices=entries,
        rounds=[finished_round(number) for number in range(1, rounds + 1)],
        outcomes={"counted": 59, "not_finite": 1, "late": 2},
        bytes_up=sum(entry.bytes_up for entry in entries),
        bytes_down=sum(entry.bytes_down for entry in entries),
        bytes_kept=sum(entry.bytes_kept for entry in entries),
        seconds=18.4,
    )


def finished_round(number: int) -> RoundView:
    """One round of a made-up learning curve."""
    mean = 0.968 - 0.55 * 0.8**number
    return RoundView(
        round=number,
        seconds=1.82 + 0.07 * (number % 4),
        counted=10 - (number % 5 == 0),
        update_bytes=764_300,
        loss=2.0 * 0.8**number,
        accuracy_mean=mean,
        accuracy_worst=mean - 0.05 - 0.2 * 0.87**number,
    )


def finished() -> FleetView:
    """The same fleet when all is done, with the table."""
    view = running(rounds=20)
    view.phase, view.round, view.finished = "done", 20, True
    for entry in view.devices:
        entry.online, entry.phase, entry.accuracy_personalised = True, "present", 0.978
    view.table = [
        WearerRow(
            wearer=entry.name,
            alone_own=0.97 - 0.003 * number,
            alone_others=0.61 - 0.011 * number,
            federated=0.975 - 0.008 * number,
            personalised=0.985 - 0.003 * number,
            pooled=0.98 - 0.004 * number,
        )
        for number, entry in enumerate(view.devices)
    ]
    return view
