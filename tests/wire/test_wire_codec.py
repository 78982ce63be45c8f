"""Envelopes: what is sealed opens for the right sender, and nothing else does."""

import typing
from hashlib import blake2b, sha256

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedgerow.algorithms.base import Weighting
from hedgerow.algorithms.catalogue import AnyAlgorithm
from hedgerow.algorithms.fedavg import FedAvg
from hedgerow.core.errors import PeerError
from hedgerow.core.schema import LocalPlan
from hedgerow.seal.codec import Codec
from hedgerow.seal.ternary import Ternary
from hedgerow.seal.topk import TopK
from hedgerow.wire.codec import (
    PAYLOAD_BYTES_MAX,
    Verify,
    open_from_coordinator,
    open_from_device,
    seal,
)
from hedgerow.wire.messages import (
    Accept,
    BlobRef,
    CheckIn,
    Enrol,
    FromDevice,
    Message,
    ModelRef,
    Offer,
    Patches,
    Receipt,
    Report,
    Update,
)

ANA = "U" + "A" * 55
REASONS = {"oversized", "malformed", "unknown_version", "forged"}


def sign(data: bytes) -> bytes:
    return blake2b(b"ana" + data, digest_size=64).digest()


def verify(sender: str, data: bytes, signature: bytes) -> bool:
    return sender == ANA and signature == sign(data)


def trusting(*_: object) -> bool:
    """A sender that signs rubbish on purpose passes the signature."""
    return True


UPDATE = Update(round=3, base=bytes(8), samples=5, payloads=(b"\0" * 32,), metrics={"loss": 0.5})
MESSAGES: list[FromDevice] = [
    CheckIn(model_version=1, samples=2, name="Ana's watch", pending=[1, 2]),
    Accept(round=2**53),
    UPDATE,
    Report(model_version=1, label="gehen – marche", confidence=0.5),
    Enrol(device=ANA, name=""),
]


def opened(data: bytes, check: Verify) -> FromDevice | str:
    """The message, or the reason why there is none; anything but PeerError is a bug."""
    try:
        return open_from_device(data, ANA, check)
    except PeerError as error:
        return error.reason


def reason(data: bytes, device: str = ANA) -> str:
    with pytest.raises(PeerError) as caught:
        open_from_device(data, device, verify)
    return caught.value.reason


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_sealed_opens(message: FromDevice) -> None:
    assert open_from_device(seal(message, ANA, sign), ANA, verify) == message


def test_an_envelope_is_an_array_of_three_and_the_signature_names_the_sender() -> None:
    version, body, signature = msgspec.msgpack.decode(seal(Accept(round=1), ANA, sign))
    assert version == 1
    assert msgspec.msgpack.decode(body) == {"kind": "accept", "round": 1}
    assert signature == sign(b"hedgerow 1\n" + ANA.encode() + b"\n" + sha256(body).digest())


def body_of(message: Message) -> dict[str, object]:
    """What travels of a message."""
    found: dict[str, object] = msgspec.msgpack.decode(
        msgspec.msgpack.decode(seal(message, ANA, sign))[1]
    )
    return found


def test_what_equals_its_default_does_not_travel() -> None:
    note = CheckIn(model_version=1, samples=2, name="", pending=[], battery=None)
    assert body_of(note) == {"kind": "check_in", "model_version": 1, "samples": 2}
    codec = Codec(stages=(TopK(share=0.5), Ternary()), feedback=False)
    blob = BlobRef(sha256=bytes(32), bytes=7)
    offer = Offer(
        round=1,
        model=ModelRef(version=1, hash="0" * 64, bytes=4),
        plan=LocalPlan(rate=0.25, momentum=float("0")),
        algorithm=FedAvg(weighting=Weighting(by="equal")),
        codecs=(codec,),
        patches=Patches(since=0, codec=Codec(), seed=5, blobs=(blob,)),
        deadline_seconds=60.0,
    )
    told = {"stages": [{"name": "topk", "share": 0.5}, {"name": "ternary"}]}
    assert body_of(offer) == {
        "kind": "offer",
        "round": 1,
        "model": {"version": 1, "hash": "0" * 64, "bytes": 4},
        "plan": {"rate": 0.25},
        "algorithm": {"name": "fedavg", "weighting": {"by": "equal"}},
        "codecs": [told],
        "patches": {
            "since": 0,
            "codec": {},
            "seed": 5,
            "blobs": [{"sha256": bytes(32), "bytes": 7}],
        },
        "deadline_seconds": 60.0,
    }
    assert open_from_coordinator(seal(offer, ANA, sign), ANA, verify) == offer


@pytest.mark.parametrize("kind", typing.get_args(AnyAlgorithm))
def test_every_algorithm_comes_out_of_an_offer_as_it_went_in(kind: type[AnyAlgorithm]) -> None:
    ref = ModelRef(version=1, hash="0" * 64, bytes=4)
    for algorithm in (kind(), kind(weighting=Weighting(by="equal"))):
        offer = Offer(round=1, model=ref, plan=LocalPlan(), algorithm=algorithm, deadline_seconds=1)
        assert open_from_coordinator(seal(offer, ANA, sign), ANA, verify) == offer


def test_an_update_has_little_beside_its_payload() -> None:
    told = {"loss": 0.41, "steps": 102.0, "seconds": 1.9}
    update = Update(round=100, base=bytes(8), samples=812, payloads=(b"x" * 239,), metrics=told)
    assert len(seal(update, ANA, sign)) - 239 == 184


def test_a_neighbour_cannot_speak_for_ana() -> None:
    sealed = seal(Accept(round=1), ANA, sign)
    assert reason(sealed, device="U" + "B" * 55) == "forged"
    assert reason(seal(Accept(round=1), "U" + "B" * 55, sign)) == "forged"
    assert reason(seal(Accept(round=1), ANA, lambda _: b"")) == "forged"


def test_each_side_takes_only_the_messages_of_the_other() -> None:
    sealed = seal(Receipt(id="x", outcome="counted"), ANA, sign)
    assert reason(sealed) == "malformed"
    assert isinstance(open_from_coordinator(sealed, ANA, verify), Receipt)


def test_other_versions_are_refused_by_that_name() -> None:
    envelope = msgspec.msgpack.decode(seal(Accept(round=1), ANA, sign))
    for version in (0, 2, 2**40):
        assert reason(msgspec.msgpack.encode([version, *envelope[1:]])) == "unknown_version"


def test_too_many_bytes_are_not_even_looked_at() -> None:
    assert reason(b"\0" * (PAYLOAD_BYTES_MAX + 1)) == "oversized"


def sealed_body(body: object) -> bytes:
    raw = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    signature = sign(b"hedgerow 1\n" + ANA.encode() + b"\n" + sha256(raw).digest())
    return msgspec.msgpack.encode([1, raw, signature])


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "accept", "round": -1},
        {"kind": "accept", "round": 2**53 + 1},
        {"kind": "accept", "round": 1.5},
        {"kind": "accept"},
        {"kind": "accept", "round": 1, "samples": [[0.0] * 3]},  # no room for more than is agreed
        {"kind": "samples", "data": b""},
        {"kind": "decline", "round": 1, "reason": "x" * 201},
        {"kind": "report", "model_version": 1, "metrics": {str(i): 0.0 for i in range(65)}},
        {"kind": "update", "round": 1, "base": b"short", "samples": 1, "payloads": [b""]},
        {"kind": "update", "round": 1, "base": b"123456789", "samples": 1, "payloads": [b""]},
        {"kind": "check_in", "model_version": 1, "samples": 1, "labels": [1] * 257},
        {"kind": "check_in", "model_version": 1, "samples": 1, "labels": [-1]},
        {"kind": "check_in", "model_version": 1, "samples": 1, "pending": list(range(65))},
        {"kind": "enrol", "device": "SAAA", "name": ""},
        [],
        b"",
        b"\x82\xa4zzzz" + b"\x91" * 100_000 + b"\xc0\xa4kind\xa6report",
    ],
)
def test_a_body_outside_its_bounds_is_malformed(body: object) -> None:
    assert reason(sealed_body(body)) == "malformed"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1.0])
def test_a_plan_outside_its_bounds_is_malformed(rate: float) -> None:
    ref = ModelRef(version=1, hash="0" * 64, bytes=4)
    offer = Offer(round=1, model=ref, plan=LocalPlan(rate=rate), deadline_seconds=1)
    with pytest.raises(PeerError, match="malformed"):
        open_from_coordinator(seal(offer, ANA, sign), ANA, verify)


def nested(depth: int) -> bytes:
    """An envelope with a fourth place that nests so deep that a naive reader runs out of stack."""
    return b"\x94" + seal(Accept(round=1), ANA, sign)[1:] + b"\x91" * depth + b"\xc0"


@settings(max_examples=150, deadline=None)
@example(nested(200_000))
@example(nested(3))
@given(st.binary(max_size=300))
def test_rubbish_is_only_ever_a_peer_error(data: bytes) -> None:
    result = opened(data, trusting)
    assert not isinstance(result, str) or result in REASONS


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(MESSAGES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 400),
)
def test_a_damaged_envelope_is_only_ever_a_peer_error(
    message: FromDevice, damage: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seal(message, ANA, sign))
    for place, value in damage:
        data[place % len(data)] = value
    damaged = bytes(data[: len(data) - cut] if cut < 50 else data)
    assert opened(damaged, verify) in [message, *REASONS]  # never another message
    result = opened(damaged, trusting)
    assert not isinstance(result, str) or result in REASONS


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["check_in", "accept", "update", "report", "enrol", "decline"]),
    st.dictionaries(
        st.sampled_from(
            ["round", "samples", "payloads", "codec", "group", "metrics", "name", "base"]
        ),
        values,
    ),
)
def test_a_signed_body_of_any_shape_is_a_message_or_a_peer_error(
    kind: str, body: dict[str, object]
) -> None:
    result = opened(sealed_body({"kind": kind, **body}), verify)
    assert not isinstance(result, str) or result == "malformed"
