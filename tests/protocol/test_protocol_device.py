"""Transcripts of the device: what happens to it, and every effect it answers with, in order."""

from typing import Any

from hedgerow.protocol import device
from hedgerow.protocol.effects import SendNote
from hedgerow.seal.codec import Codec
from hedgerow.wire.messages import BlobRef, CheckIn, Enrolled, Pace, Patches, Report, RollCall
from tests.protocol.transcript import Watch, model

PAUSED = "the owner paused sharing"


def training(number: int = 1, **settings: Any) -> Watch:
    """A device that is up and trains for a round."""
    watch = Watch(**settings)
    watch.take(device.LinkUp())
    watch.offer(number)
    assert watch.state.phase == "training"
    return watch


def test_it_checks_in_when_the_link_comes_up_and_at_an_interval() -> None:
    watch = Watch()
    assert watch.take(device.LinkUp()) == ["note check_in v1", "timer check_in at 30"]
    watch.now = 30.0
    assert watch.take(device.TimerFired("check_in")) == [
        "note check_in v1",
        "timer check_in at 60",
    ]
    assert watch.take(device.LinkDown()) == ["cancel check_in"]
    assert watch.take(device.TimerFired("check_in")) == []  # it ran out as it was cancelled


def test_it_trains_and_sends_until_it_is_acknowledged() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    assert watch.offer(1) == ["note accept 1", "cancel personalise", "train 1 from v1"]
    assert watch.trained(1) == ["post ana/1/update update 1"]
    watch.now = 30.0
    assert watch.take(device.TimerFired("check_in")) == [
        "note check_in v1 pending [1]",
        "resend ana/1/update",
        "timer check_in at 60",
    ]
    assert watch.receipt(1) == ["forget ana/1/update"]
    assert watch.receipt(1) == []  # a second receipt
    assert watch.receipt(7) == []  # a receipt for something it never sent
    assert watch.take(device.TimerFired("check_in"))[0] == "note check_in v1"


def test_any_outcome_ends_the_sending() -> None:
    for outcome in ("duplicate", "late", "stale", "wrong_shape"):
        watch = training()
        watch.trained()
        assert watch.receipt(1, outcome) == ["forget ana/1/update"]


def test_a_model_it_lacks_is_fetched_first() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    assert watch.offer(4, version=3) == ["note accept 4", "cancel personalise", "fetch v3"]
    assert watch.fetched(3) == ["install v3", "train 4 from v3"]


def test_an_older_model_is_trained_from_but_not_installed() -> None:
    watch = Watch()
    watch.state.model = model(5)
    watch.offer(4, version=3)
    assert watch.fetched(3) == ["train 4 from v3"]
    assert watch.state.model == model(5)


def test_training_without_a_link_is_sent_when_the_link_is_back() -> None:
    watch = training()
    watch.take(device.LinkDown())
    assert watch.trained() == ["post ana/1/update update 1"]  # kept in the outbox
    watch.now = 100.0
    assert watch.take(device.LinkUp()) == [
        "note check_in v1 pending [1]",
        "resend ana/1/update",
        "timer check_in at 130",
    ]


def test_a_device_that_starts_again_sends_what_its_outbox_holds() -> None:
    watch = Watch(unacknowledged={"ana/3/update", "ana/4/update"})
    assert watch.take(device.LinkUp()) == [
        "note check_in v1 pending [3, 4]",
        "resend ana/3/update",
        "resend ana/4/update",
        "timer check_in at 30",
    ]
    assert watch.offer(4) == ["resend ana/4/update"]  # asked for what it has: nothing to train


def test_what_was_acknowledged_after_a_restart_is_not_trained_for_again() -> None:
    watch = Watch(unacknowledged={"ana/3/update"})
    watch.take(device.LinkUp())
    assert watch.receipt(3) == ["forget ana/3/update"]
    assert watch.offer(3) == []  # a copy that was long under way
    assert watch.offer(4)[0] == "note accept 4"


def test_a_device_killed_in_training_takes_the_offer_again() -> None:
    training()
    watch = Watch()  # a new process; nothing of the training was kept
    watch.take(device.LinkUp())
    assert watch.offer(1) == ["note accept 1", "cancel personalise", "train 1 from v1"]


def test_the_same_offer_again_is_accepted_again_and_not_trained_twice() -> None:
    watch = training()
    assert watch.offer(1) == ["note accept 1"]
    watch.trained()
    watch.receipt()
    assert watch.offer(1) == []  # a late copy


def test_a_newer_offer_ends_the_training() -> None:
    watch = training(1)
    assert watch.offer(2) == [
        "stop",
        "note accept 2",
        "cancel personalise",
        "train 2 from v1",
    ]
    assert watch.trained(1) == []  # it had ended a moment ago
    assert watch.take(device.TrainingFailed(1, "stopped")) == []
    assert watch.offer(1) == []  # an old offer, replayed
    assert watch.trained(2) == ["post ana/2/update update 2"]


def test_a_published_model_stops_who_still_trains_for_it() -> None:
    watch = training(1)
    assert watch.published(1, 2) == ["stop", "fetch v2"]
    assert watch.published(1, 2) == []  # it is on its way
    assert watch.fetched(2) == ["install v2"]
    assert watch.published(1, 2) == []
    assert watch.offer(1) == []  # an offer that was overtaken


def test_a_published_model_leaves_training_for_a_newer_round_alone() -> None:
    watch = training(2)
    assert watch.published(1, 2) == ["fetch v2"]
    assert watch.fetched(2) == ["install v2"]
    assert watch.trained(2) == ["post ana/2/update update 2"]


def test_an_offer_and_the_news_of_its_model_fetch_it_once() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    assert watch.published(1, 2) == ["fetch v2"]
    assert watch.offer(2, version=2) == ["note accept 2", "cancel personalise"]
    assert watch.fetched(2) == ["install v2", "train 2 from v2"]


def test_a_model_that_does_not_come_is_asked_for_again_soon() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    watch.offer(1, version=2)
    watch.now = 10.0
    failed = device.FetchFailed(model(2).hash, "no link")
    assert watch.take(failed) == ["timer check_in at 12"]
    assert watch.offer(1, version=2) == ["note accept 1", "cancel personalise", "fetch v2"]


def test_training_that_fails_is_declined_with_its_reason() -> None:
    watch = training()
    reason = "no memory" + "!" * 300
    said = watch.take(device.TrainingFailed(1, reason))
    assert said == ["note decline 1: " + reason[:200]]
    assert watch.offer(1)[0] == "note accept 1"  # the decline was lost: it tries once more


def test_without_samples_it_declines() -> None:
    watch = Watch(samples=0)
    assert watch.offer(1) == ["note decline 1: no samples to train on yet"]
    watch.take(device.SamplesChanged(1))
    assert watch.offer(1)[0] == "note accept 1"


def test_nothing_leaves_a_device_whose_owner_paused_sharing() -> None:
    watch = training()
    assert watch.take(device.PauseSharing(True)) == [f"note decline 1: {PAUSED}", "stop"]
    assert watch.take(device.PauseSharing(True)) == []
    assert watch.take(device.TimerFired("check_in")) == ["timer check_in at 30"]
    assert watch.take(device.Reported(Report(model_version=1, label="walking"))) == []
    assert watch.offer(1) == [f"note decline 1: {PAUSED}"]
    assert watch.published(1, 2) == ["fetch v2"]  # models still come
    assert watch.take(device.PauseSharing(False)) == [
        "note check_in v1",
        "timer check_in at 30",
    ]


def test_what_waits_in_the_outbox_waits_until_sharing_is_resumed() -> None:
    watch = training()
    watch.trained()
    assert watch.take(device.PauseSharing(True)) == []
    assert watch.take(device.LinkDown()) == ["cancel check_in"]
    assert watch.take(device.LinkUp()) == ["timer check_in at 30"]
    assert watch.offer(1) == [f"note decline 1: {PAUSED}"]
    assert watch.take(device.PauseSharing(False)) == [
        "note check_in v1 pending [1]",
        "resend ana/1/update",
        "timer check_in at 30",
    ]
    watch.take(device.LinkDown())
    assert watch.take(device.PauseSharing(True)) == []
    assert watch.take(device.PauseSharing(False)) == []  # without a link there is nobody to tell


def test_it_personalises_when_it_was_idle_for_a_while_after_an_install() -> None:
    watch = Watch(personalise_after_seconds=5.0)
    watch.take(device.LinkUp())
    watch.published(1, 2)
    assert watch.fetched(2) == ["install v2", "timer personalise at 5"]
    assert watch.take(device.TimerFired("personalise")) == ["personalise v2"]
    assert watch.take(device.Personalised()) == []
    assert watch.take(device.TimerFired("personalise")) == []  # once a model is enough


def test_a_round_comes_before_personalising_which_then_starts_afresh() -> None:
    watch = Watch(personalise_after_seconds=5.0)
    watch.take(device.LinkUp())
    watch.published(1, 2)
    watch.fetched(2)
    watch.take(device.TimerFired("personalise"))
    assert watch.offer(2, version=2) == [
        "stop",
        "note accept 2",
        "cancel personalise",
        "train 2 from v2",
    ]
    watch.now = 20.0
    assert watch.take(device.TimerFired("personalise")) == []
    assert watch.trained(2) == ["post ana/2/update update 2", "timer personalise at 25"]
    assert watch.take(device.TimerFired("personalise")) == ["personalise v2"]


def test_a_newer_model_ends_personalising() -> None:
    watch = Watch(personalise_after_seconds=5.0)
    watch.published(1, 2)
    watch.fetched(2)
    watch.take(device.TimerFired("personalise"))
    watch.published(2, 3)
    assert watch.fetched(3) == ["stop", "install v3", "timer personalise at 5"]


def test_a_roll_call_is_answered_at_a_moment_of_ones_own() -> None:
    answers = {tuple(Watch(name).hear(RollCall(spread_seconds=10))) for name in "abcdefgh"}
    moments = sorted(float(answer[0].removeprefix("timer check_in at ")) for answer in answers)
    assert len(moments) == 8
    assert 0 <= moments[0] < moments[-1] < 10
    assert Watch("a").hear(RollCall(spread_seconds=10)) in [list(answer) for answer in answers]


def test_reports_go_out_while_there_is_a_link() -> None:
    watch = Watch()
    report = device.Reported(Report(model_version=1, label="walking"))
    assert watch.take(report) == []
    watch.take(device.LinkUp())
    assert watch.take(report) == ["note report walking"]


def test_an_answer_to_an_enrolment_means_nothing_to_a_device_that_is_in() -> None:
    watch = Watch()
    enrolled = Enrolled(
        device="U" + "A" * 55, fleet="f", credential="c", bundle="0" * 64, bundle_bytes=1
    )
    assert watch.hear(enrolled) == []


# Patches ------------------------------------------------------------------------------------------


def way(since: int, *sizes: int) -> Patches:
    """Patches from that version on, one for each size."""
    blobs = tuple(BlobRef(sha256=size.to_bytes(32, "big"), bytes=size) for size in sizes)
    return Patches(since=since, codec=Codec(), seed=1, blobs=blobs)


def test_a_model_comes_by_the_patches_it_lacks() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    assert watch.published(2, 3, way(1, 10, 20)) == ["fetch v3 by 2 patches from v1"]
    assert watch.fetched(3) == ["install v3"]
    # News that begins earlier than it needs: it takes the last part.
    assert watch.published(4, 5, way(2, 10, 20, 30)) == ["fetch v5 by 2 patches from v3"]


def test_news_for_others_makes_it_ask_for_its_own() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    (timer,) = watch.published(3, 4, way(3, 10))
    assert timer.startswith("timer check_in at ")
    assert 0 <= float(timer.rpartition(" ")[2]) < device.ASK_SECONDS
    assert watch.published(3, 4) == ["fetch v4"]  # the answer: too far behind for patches


def test_an_offer_whose_patches_do_not_fit_is_fetched_whole() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    lines = watch.offer(5, version=5, patches=way(3, 10, 20))
    assert lines[-1] == "fetch v5"
    assert (
        Watch().offer(5, version=3, patches=way(1, 10, 20))[-1] == "fetch v3 by 2 patches from v1"
    )


# Pace ---------------------------------------------------------------------------------------------


def test_it_comes_when_it_is_told_to_and_then_at_its_own_rhythm() -> None:
    watch = Watch()
    watch.take(device.LinkUp())
    assert watch.hear(Pace(seconds=1200)) == ["timer check_in at 1200"]
    watch.now = 1200.0
    assert watch.take(device.TimerFired("check_in"))[-1] == "timer check_in at 1230"


def test_a_check_in_says_what_it_is_at_and_what_it_has() -> None:
    watch = training(3)
    facts = device.Facts(battery=0.5, metered=True, data_age_seconds=60.0)
    watch.take(device.FactsChanged(facts))
    _, effects = device.step(watch.state, device.TimerFired("check_in"), 30.0)
    note = effects[0]
    assert isinstance(note, SendNote)
    assert note.message == CheckIn(
        model_version=1,
        samples=32,
        name="ana",
        training=3,
        battery=0.5,
        metered=True,
        data_age_seconds=60.0,
    )
