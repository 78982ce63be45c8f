"""`/metrics`: what a device tells Prometheus, in the text exposition format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/ is the format, and
https://prometheus.io/docs/practices/naming/ how names are made: base units, counters in `_total`.
Everything follows from the view the owner's page shows, so the two cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from hedgerow.protocol.measures import Family, Sample, by_label, counter, gauge
from hedgerow.protocol.owner import STATES, OwnerView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(families: Iterable[Family]) -> str:
    """The text of `families`, those without a sample left out."""
    return "".join(_lines(family) for family in families if family.samples)


def families_of(view: OwnerView) -> list[Family]:
    """Everything that follows from the view of a device."""
    return [
        *_about(view),
        *_deciding(view),
        *_sensing(view),
        *_storing(view),
        *_sharing(view),
        *_energy(view),
    ]


def _about(view: OwnerView) -> Iterator[Family]:
    about = {
        "version": view.version,
        "name": view.name,
        "app": view.app,
        "model": view.model.name,
        "model_version": view.model.version,
        "model_source": view.model.source,
        "provider": view.model.provider,
        "precision": view.model.precision,
    }
    yield Family("hedgerow_device_info", "gauge", "What runs here; always 1", [Sample(1.0, about)])
    started = view.time_seconds - view.up_seconds
    yield gauge("hedgerow_start_time_seconds", "When the agent started, in Unix seconds", started)
    load = view.load
    yield counter("process_cpu_seconds_total", "CPU time of the agent", load.cpu_seconds)
    yield gauge("process_resident_memory_bytes", "Memory of the agent", load.resident_bytes)


def _deciding(view: OwnerView) -> Iterator[Family]:
    states = {str(state): float(getattr(view.streams, state)) for state in STATES}
    yield by_label("hedgerow_streams", "gauge", "Streams in each state", "state", states)
    yield counter("hedgerow_windows_total", "Windows decided on", view.load.windows)
    yield by_label(
        "hedgerow_dropped_total",
        "counter",
        "Windows or blocks lost before a decision, by reason",
        "reason",
        view.load.dropped,
    )
    yield by_label(
        "hedgerow_model_quality_ratio",
        "gauge",
        "What is known of the model's quality, from 0 to 1",
        "measure",
        {name: value for name, value in view.model.measures.items() if 0 <= value <= 1},
    )


def _sensing(view: OwnerView) -> Iterator[Family]:
    def family(name: str, kind: str, help: str, values: Sequence[float]) -> Family:
        samples = [
            Sample(value, {"name": sensor.name, "kind": sensor.kind, "role": sensor.role})
            for sensor, value in zip(view.sensors, values, strict=True)
        ]
        return Family(name, "counter" if kind == "counter" else "gauge", help, samples)

    sensors = view.sensors
    yield family(
        "hedgerow_connection_up",
        "gauge",
        "Whether a sensor or actuator is connected",
        [float(sensor.up) for sensor in sensors],
    )
    yield family(
        "hedgerow_connection_messages_total",
        "counter",
        "Blocks a sensor gave, or notices an actuator acted on",
        [float(sensor.count) for sensor in sensors],
    )
    yield family(
        "hedgerow_connection_failures_total",
        "counter",
        "Times a sensor or actuator failed",
        [float(sensor.failures) for sensor in sensors],
    )


def _storing(view: OwnerView) -> Iterator[Family]:
    stored = view.stored
    kept = {entry.kind: entry for entry in stored.kept}
    yield by_label(
        "hedgerow_stored_bytes",
        "gauge",
        "Bytes kept on the device, by kind",
        "kind",
        {kind: entry.bytes for kind, entry in kept.items()},
    )
    yield by_label(
        "hedgerow_stored_limit_bytes",
        "gauge",
        "The most bytes that are kept, by kind",
        "kind",
        {kind: entry.bytes_max for kind, entry in kept.items() if entry.bytes_max is not None},
    )
    yield by_label(
        "hedgerow_stored_items",
        "gauge",
        "Things kept on the device, by kind",
        "kind",
        {kind: entry.count for kind, entry in kept.items()},
    )
    yield by_label(
        "hedgerow_store_dropped_total",
        "counter",
        "What the store let go of, by reason",
        "reason",
        {reason: float(count) for reason, count in stored.drops.items()},
    )
    yield gauge("hedgerow_store_full", "1 while the disk takes no more", float(stored.full))
    yield gauge("hedgerow_disk_free_bytes", "Free space beside the store", stored.disk_free_bytes)


def _sharing(view: OwnerView) -> Iterator[Family]:
    sharing, sent = view.sharing, view.sent
    yield by_label(
        "hedgerow_sent_messages_total",
        "counter",
        "Messages that left the device, by class, over the whole egress record",
        "class",
        {entry.kind: float(entry.messages) for entry in sent.classes},
    )
    yield by_label(
        "hedgerow_sent_bytes_total",
        "counter",
        "Bytes that left the device, by class, over the whole egress record",
        "class",
        {entry.kind: float(entry.bytes) for entry in sent.classes},
    )
    yield gauge("hedgerow_sharing_paused", "1 while the owner shares nothing", sharing.paused)
    if sharing.fleet:
        yield gauge("hedgerow_fleet_up", "Whether the fleet can be reached", sharing.online)
        yield gauge(
            "hedgerow_outbox_messages", "Messages that wait to be sent", sharing.waiting_messages
        )
        yield gauge("hedgerow_outbox_bytes", "Bytes that wait to be sent", sharing.waiting_bytes)
        yield gauge(
            "hedgerow_fleet_contact_time_seconds",
            "When the fleet was last heard, in Unix seconds",
            sharing.contact_seconds,
        )
    yield gauge(
        "hedgerow_privacy_epsilon", "Privacy budget spent; absent: none kept", view.privacy.epsilon
    )


def _energy(view: OwnerView) -> Iterator[Family]:
    energy = view.energy
    if energy is None:
        return
    labels = {"source": energy.source, "estimated": str(energy.estimated).lower()}
    yield Family(
        "hedgerow_energy_joules_total",
        "counter",
        "Energy since the start, measured or estimated",
        [Sample(energy.joules, labels)],
    )
    yield gauge("hedgerow_power_watts", "Power over the last seconds", energy.watts)
    yield gauge(
        "hedgerow_inference_energy_joules", "Energy of one inference", energy.joules_per_inference
    )
    yield gauge("hedgerow_round_energy_joules", "Energy of one round", energy.joules_per_round)


def _lines(family: Family) -> str:
    help = family.help.replace("\\", "\\\\").replace("\n", "\\n")
    head = f"# HELP {family.name} {help}\n# TYPE {family.name} {family.kind}\n"
    return head + "".join(_line(family.name, sample) for sample in family.samples)


def _line(name: str, sample: Sample) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in sample.labels.items())
    return f"{name}{sample.suffix}{'{' + pairs + '}' if pairs else ''} {_number(sample.value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
