"""The coordinator's picture of its fleet, from its machine's state and what devices report."""

import re
from collections import Counter, defaultdict
from typing import Any

from hedgerow.io import clock
from hedgerow.protocol.fleet import CoordinatorState, Member
from hedgerow.protocol.view import DeviceView, FleetView, RoundView, WearerRow
from hedgerow.wire.messages import Report

ROUNDS_SHOWN_MAX = 200
PHASES = {"offered": "invited", "accepted": "training"}


class FleetRecorder:
    """Hears what the machine tells, and draws `FleetView`s."""

    def __init__(self, fleet: str, app: str, task: str = "classification") -> None:
        self._fleet = fleet
        self._app = app
        self._task = task
        self._started_at = clock.monotonic()
        self._rounds: list[RoundView] = []
        self._version_of_round: dict[int, int] = {}
        self._accuracy: dict[int, dict[str, float]] = defaultdict(dict)
        self._personalised: dict[str, tuple[int, float]] = {}
        self._update_bytes: Counter[int] = Counter()
        self._losses: dict[int, list[float]] = defaultdict(list)
        self.table: list[WearerRow] = []
        self.finished = False

    def told(self, state: CoordinatorState, what: str, fields: dict[str, Any]) -> None:
        """Something happened."""
        match what:
            case "update" if fields["outcome"] == "counted":
                self._update_bytes[fields["counted_in"]] += fields["bytes"]
                if "loss" in fields["metrics"]:
                    self._losses[fields["counted_in"]].append(fields["metrics"]["loss"])
            case "round_closed":
                self._round_closed(fields)
            case "round_abandoned":
                self._losses.pop(fields["round"], None)
                self._rounds.append(
                    RoundView(
                        round=fields["round"],
                        seconds=fields["seconds"],
                        counted=fields["counted"],
                        update_bytes=self._update_bytes.pop(fields["round"], 0),
                        outcome="abandoned",
                    )
                )
            case "report":
                self._reported(state, fields["device"])
        for gone in self._rounds[:-ROUNDS_SHOWN_MAX]:
            self._version_of_round.pop(gone.round, None)
        del self._rounds[:-ROUNDS_SHOWN_MAX]

    def accuracies(self, version: int) -> dict[str, float]:
        """Accuracy of that model version on each device's own held-out data, as reported."""
        return dict(self._accuracy.get(version, {}))

    def personalised(self, version: int) -> dict[str, float]:
        """Accuracy of each device's own model, fine-tuned from that version, as reported."""
        return {d: value for d, (v, value) in self._personalised.items() if v == version}

    def view(self, state: CoordinatorState) -> FleetView:
        """The fleet now."""
        now = clock.monotonic()
        devices = [self._device(state, d, m, now) for d, m in state.members.items()]
        devices.sort(key=lambda device: (_natural(device.name), device.id))
        for shown in self._rounds:
            values = self._accuracy.get(self._version_of_round.get(shown.round, -1), {}).values()
            if values and len(values) >= shown.counted:  # a mean of some would mislead
                shown.accuracy_mean = sum(values) / len(values)
                shown.accuracy_worst = min(values)
        return FleetView(
            fleet=self._fleet,
            app=self._app,
            phase=state.phase,
            round=state.last_round,
            rounds_done=state.rounds_done,
            rounds_planned=state.rules.rounds,
            model_version=state.model.version,
            model_hash=state.model.hash,
            parameters=state.parameters,
            devices_wanted=max(state.rules.quorum, state.rules.devices_min),
            devices=devices,
            rounds=list(self._rounds),
            outcomes=dict(state.outcomes),
            bytes_up=sum(device.bytes_up for device in devices),
            bytes_down=sum(device.bytes_down for device in devices),
            bytes_kept=sum(device.bytes_kept for device in devices),
            seconds=now - self._started_at,
            table=self.table,
            finished=self.finished,
        )

    def _round_closed(self, fields: dict[str, Any]) -> None:
        number = fields["round"]
        losses = self._losses.pop(number, [])
        self._version_of_round[number] = fields["model"].version
        self._rounds.append(
            RoundView(
                round=number,
                seconds=fields["seconds"],
                counted=fields["counted"],
                update_bytes=self._update_bytes.pop(number, 0),
                loss=sum(losses) / len(losses) if losses else None,
            )
        )
        for old in [v for v in self._accuracy if v < fields["model"].version - ROUNDS_SHOWN_MAX]:
            del self._accuracy[old]

    def _reported(self, state: CoordinatorState, device: str) -> None:
        report = state.members[device].report
        if report is None:
            return
        newest = state.model.version
        if not newest - ROUNDS_SHOWN_MAX <= report.model_version <= newest:
            return  # a device may claim anything; what is kept stays small
        accuracy = self._figure(report, "accuracy")
        if accuracy is not None:
            self._accuracy[report.model_version][device] = accuracy
        personalised = self._figure(report, "accuracy_personalised")
        if personalised is not None:
            self._personalised[device] = (report.model_version, personalised)

    def _figure(self, report: Report, name: str) -> float | None:
        """That accuracy, if it was reported and can be one."""
        value = report.metrics.get(name)
        if value is None or (self._task == "classification" and not 0 <= value <= 1):
            return None
        return value

    def _device(
        self, state: CoordinatorState, device: str, member: Member, now: float
    ) -> DeviceView:
        online = now - member.seen_at <= state.rules.presence_seconds
        phase = "present" if online else "away"
        if state.open is not None and device in state.open.cohort:
            phase = state.open.cohort[device]
        if device in state.slots:
            phase = "accepted" if state.slots[device].accepted else "offered"
        view = DeviceView(
            id=device,
            name=member.name,
            online=online,
            phase=PHASES.get(phase, phase),
            model_version=member.model_version,
            samples=member.samples,
        )
        report = member.report
        if report is not None:
            view.model_version = report.model_version
            view.label, view.confidence = report.label, report.confidence
            view.reason = report.reason
            view.accuracy = self._figure(report, "accuracy")
            view.accuracy_personalised = self._figure(report, "accuracy_personalised")
            view.bytes_up = int(report.metrics.get("bytes_up", 0))
            view.bytes_down = int(report.metrics.get("bytes_down", 0))
            view.bytes_kept = int(report.metrics.get("bytes_kept", 0))
        return view


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts `press 9` before `press 10`."""
    parts = re.findall(r"([^0-9]*)([0-9]{0,9})", name)
    return [(text, int(digits) if digits else -1) for text, digits in parts]
