"""Made-up devices for tests of the page and the API: synthetic figures, nothing measured."""

import hashlib

import numpy as np

from hedgerow.decide.notice import Notice
from hedgerow.protocol.board import Board
from hedgerow.protocol.owner import (
    EnergyView,
    Event,
    Kept,
    LoadView,
    ModelView,
    OwnerView,
    PrivacyView,
    SensorView,
    SentClass,
    SentDay,
    SentView,
    SharingView,
    StoredView,
    TaskView,
    Trial,
)
from tests.web.owners import KINDS, NOW, MadeUpOwner


def factory(streams: int = 2000) -> MadeUpOwner:
    """A gateway that watches machines by their vibration; a few of them need a look."""
    board = scored_board(streams)
    view = OwnerView(
        device="UDHQ" + "7KZ2" * 13,
        name="hall 3 gateway",
        app="vibration",
        version="0.1.0",
        time_seconds=NOW,
        up_seconds=3.4 * 86_400,
        streams=board.counts(100_000.0),
        states="",
        worst=[],
        events=[
            Event(
                stream="press 0007",
                time_seconds=NOW - 95,
                label="anomaly",
                reason="2.31 times the threshold for 3 windows; was normal",
                alert=True,
            ),
            Event(
                stream="press 0648",
                time_seconds=NOW - 141,
                label="anomaly",
                reason="1.08 times the threshold for 3 windows; was normal",
                alert=True,
            ),
            Event(
                stream="press 0212",
                time_seconds=NOW - 3_900,
                label="normal",
                reason="below the threshold for 5 windows; was anomaly",
            ),
        ],
        model=factory_model(),
        stored=stored(),
        sharing=SharingView(
            fleet="presses",
            coordinator="OCOORD",
            online=True,
            task=TaskView(
                round=118,
                phase="training",
                purpose="Trains the vibration model on what was normal here",
                since_seconds=NOW - 41,
            ),
            waiting_messages=3,
            waiting_bytes=41_900,
            contact_seconds=NOW - 4,
        ),
        sent=sent(),
        privacy=PrivacyView(),
        energy=EnergyView(
            source="RAPL",
            estimated=False,
            joules=3_214_000,
            watts=11.2,
            joules_per_inference=0.00091,
            joules_per_round=212.0,
        ),
        load=LoadView(
            cpu_seconds=210_400,
            cpu_share=1.31,
            resident_bytes=412_000_000,
            windows=3_440_000_000,
            windows_per_second=11_718.0,
            dropped={},
        ),
        sensors=[
            SensorView(
                name="factory/+/vibration", kind="mqtt", role="sensor", up=True, count=588_000_000
            ),
            SensorView(
                name="opc.tcp://plc-4",
                kind="opcua",
                role="sensor",
                up=False,
                why="no route to host; tried again every 30 s",
                failures=14,
            ),
            SensorView(
                name="home assistant", kind="home_assistant", role="actuator", up=True, count=1_241
            ),
            SensorView(
                name="https://alerts.example",
                kind="webhook",
                role="actuator",
                up=True,
                count=38,
                failures=1,
            ),
        ],
    )
    return MadeUpOwner(board, view, scored=True)


def watch() -> MadeUpOwner:
    """One watch, alone, that tells exercises apart."""
    board = Board()
    labels = ["pendulum", "row", "abduction"]
    rng = np.random.default_rng(5)
    for at in range(300):
        label = labels[(at // 41) % 3]
        sure = float(np.clip(0.9 + 0.08 * rng.standard_normal(), 0.4, 0.99))
        notice = Notice(
            stream="wearer 3",
            time_seconds=NOW - 600 + 2 * at,
            label=label,
            confidence=sure,
            reason=f"{label} at {sure:.2f} for 4 windows",
            changed=at % 41 == 0,
            model="watch 1.2",
        )
        board.tell([notice], 100_000.0 - 600 + 2 * at)
    view = OwnerView(
        device="UWATCH" + "A" * 50,
        name="watch of wearer 3",
        app="watch",
        version="0.1.0",
        time_seconds=NOW,
        up_seconds=5_400.0,
        streams=board.counts(100_000.0),
        states="f",
        worst=[],
        events=[],
        model=ModelView(name="watch", version="1.2", labels=labels, measures={"accuracy": 0.962}),
        stored=StoredView(
            kept=[Kept(kind="windows", count=1_180, bytes=5_660_000, bytes_max=67_108_864)],
            labelled={"pendulum": 400, "row": 380, "abduction": 400},
        ),
        sharing=SharingView(),
        sent=SentView(),
    )
    return MadeUpOwner(board, view, scored=False)


def scored_board(streams: int) -> Board:
    """Ten minutes of every stream: most are calm, some not, a few silent or still learning."""
    rng = np.random.default_rng(11)
    board = Board(quiet_after_seconds=60)
    names = [f"press {n:04d}" for n in range(streams)]
    rows = np.array([board.row(name) for name in names])
    normal, anomaly = board.label_number("normal"), board.label_number("anomaly")
    level = 0.35 + 0.2 * rng.random(streams)
    number = np.arange(streams)
    bad, silent = number % 641 == 7, (number % 307 == 40) & (number > 0)
    moved, learning = number % 199 == 77, number % 83 == 30
    for step in range(330):
        seconds = NOW - 660 + 2 * step
        swell = 0.06 * np.sin(step / 19 + number)
        scores = level + swell + 0.09 * np.abs(rng.standard_normal(streams))
        grown = bad & (step > 200)
        scores = np.where(grown, scores + (step - 200) / (45 + number % 30), scores)
        here = ~(silent & (step > 120))
        board.push(
            rows[here],
            100_000.0 - 660 + 2 * step,
            seconds=seconds,
            labels=np.where(scores > 1, anomaly, normal)[here],
            confidences=np.nan,
            scores=scores[here],
            drifts=np.where(moved, 1.2, 0.3)[here],
            alerts=(grown & (scores > 1))[here],
        )
    board.set_learning(rows[learning], True)
    told = [
        Notice(
            stream=names[n],
            time_seconds=NOW - 2.0,
            label="anomaly",
            confidence=2.3,
            reason="above the threshold for 31 windows; was normal",
            changed=False,
            alert=True,
            score=2.4 + n / 900,
            model="vibration 2.1",
        )
        for n in np.flatnonzero(bad)
    ]
    board.tell(told, 100_000.0)
    return board


def smuggler(text: str) -> Notice:
    """A notice that carries `text` wherever it can."""
    return Notice(
        stream=text,
        time_seconds=NOW,
        label=text,
        confidence=0.5,
        reason=text,
        changed=True,
        alert=True,
        score=99.0,
        model=text,
    )


def factory_model() -> ModelView:
    return ModelView(
        name="vibration",
        version="2.1",
        hash="9f2c" * 16,
        source="site",
        since_seconds=NOW - 31_000,
        why="It was no worse than 2.0 over 14,200 windows, and its false alarms are fewer",
        parameters=19_095,
        precision="int8",
        provider="CPU",
        measures={"auroc": 0.981, "false_alarms_per_day": 0.42},
        trials=[
            Trial(
                model="vibration 2.2",
                source="fleet",
                stage="shadow",
                time_seconds=NOW - 600,
                why="Runs beside 2.1 on live windows",
                windows=8_121,
                measures={"agreement": 0.993},
            ),
            Trial(
                model="vibration 2.1",
                source="site",
                stage="active",
                time_seconds=NOW - 31_000,
                why="No worse than 2.0 at 5% over live windows",
                windows=14_200,
                measures={"agreement": 0.997},
            ),
            Trial(
                model="vibration 2.0",
                source="bundle",
                stage="replaced",
                time_seconds=NOW - 290_000,
                why="Came with the application",
            ),
            Trial(
                model="vibration 1.9-b",
                source="fleet",
                stage="refused",
                time_seconds=NOW - 300_000,
                why="Its signature is not of this fleet's release key",
            ),
        ],
    )


def stored() -> StoredView:
    return StoredView(
        kept=[
            Kept(
                kind="windows",
                count=84_112,
                bytes=689_000_000,
                bytes_max=1_073_741_824,
                oldest_seconds=NOW - 8.2 * 86_400,
                newest_seconds=NOW - 1,
            ),
            Kept(
                kind="notices",
                count=12_331,
                bytes=2_900_000,
                bytes_max=16_777_216,
                oldest_seconds=NOW - 31 * 86_400,
                newest_seconds=NOW - 95,
            ),
            Kept(
                kind="outbox",
                count=3,
                bytes=41_900,
                bytes_max=16_777_216,
                oldest_seconds=NOW - 50,
                newest_seconds=NOW - 4,
            ),
            Kept(kind="models", count=4, bytes=1_210_000, bytes_max=67_108_864),
            Kept(
                kind="egress",
                count=4_127,
                bytes=1_100_000,
                oldest_seconds=NOW - 31 * 86_400,
                newest_seconds=NOW - 4,
            ),
        ],
        labelled={"normal": 80_400, "anomaly": 212, "": 3_500},
        drops={"window_full": 1_204_000, "outbox_expired": 0},
        disk_free_bytes=18_400_000_000,
    )


def sent() -> SentView:
    rng = np.random.default_rng(3)
    days = []
    for at in range(24):
        scale = 0.25 if at in (9, 10) else 1.0
        day = np.datetime_as_string(np.datetime64("2026-10-31") + at)
        sizes = {
            "update": int(scale * 380_000 * (0.7 + 0.6 * rng.random())),
            "summary": int(120_000 * (0.9 + 0.2 * rng.random())),
            "exception": int(90_000 * rng.random() ** 3),
            "alert": int(22_000 * rng.random()),
            "report": int(30_000 * scale),
        }
        days.append(SentDay(day=str(day), bytes=sizes))
    days[-1] = SentDay(day=days[-1].day, bytes={k: v // 5 for k, v in days[-1].bytes.items()})
    totals = {kind: sum(day.bytes[kind] for day in days) for kind in KINDS}
    counts = {"update": 118, "summary": 3_020, "exception": 641, "alert": 241, "report": 107}
    return SentView(
        messages=sum(counts.values()),
        bytes=sum(totals.values()),
        bytes_today=sum(days[-1].bytes.values()),
        classes=[
            SentClass(
                kind=kind,
                messages=counts[kind],
                bytes=totals[kind],
                messages_today=counts[kind] // 24,
                bytes_today=days[-1].bytes[kind],
            )
            for kind in KINDS
        ],
        days=days,
        head=hashlib.sha256(b"head").hexdigest(),
        signed_seconds=NOW - 3,
    )
