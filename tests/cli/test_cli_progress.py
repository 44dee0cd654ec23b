import io

import pytest
from rich.console import Console

from pplr.cli.progress import LiveDisplay, PlainLog, watching
from pplr.cli.progress_track import Track
from pplr.cli.progress_words import number
from pplr.federation.events import Event

NAMES = ["client-0", "client-1"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def round_events(number, seconds=10.0, rounds=4, score=0.1, names=NAMES):
    yield Event("round_started", number, data={"rounds": rounds, "clients": names})
    for name in names:
        for step in (1, 2):
            data = {"step": step, "steps": 2, "loss": 3.5, "tokens_per_second": 1234.0}
            yield Event("training", number, name, data, transient=True)
        yield Event("client_trained", number, name, {"loss": 3.25, "tokens": 5000, "seconds": {"total": 2.5}})
    for index, name in enumerate(names):
        yield Event("evaluating", number, name, {"part": "validation"}, transient=True)
        data = {"loss": 2.5, "improved": index == 0, "ndcg@10": 0.2 - 0.1 * index}
        yield Event("client_validated", number, name, data)
    yield Event("round_finished", number, data={"score": score, "seconds": {"total": seconds}})


def test_time_left_is_what_the_finished_rounds_took():
    clock = Clock()
    track = Track(clock)
    for event in round_events(1, seconds=10):
        track.see(event)
    assert track.seconds_left == pytest.approx(30)
    for event in round_events(2, seconds=20):
        track.see(event)
    assert track.seconds_left == pytest.approx(2 * 15)
    track.see(Event("round_started", 3, data={"rounds": 4, "clients": NAMES}))
    clock.now += 5
    assert track.seconds_left == pytest.approx(2 * 15 - 5)


def test_time_left_of_the_first_round_comes_from_its_steps():
    clock = Clock()
    track = Track(clock)
    track.see(Event("round_started", 1, data={"rounds": 2, "clients": NAMES}))
    assert track.seconds_left is None
    clock.now = 6
    data = {"step": 1, "steps": 2, "loss": 1.0, "tokens_per_second": 1.0}
    track.see(Event("training", 1, "client-0", data, transient=True))
    # a quarter of the round took 6 seconds: 18 for the rest, 24 for the other round
    assert track.seconds_left == pytest.approx(42)


def test_a_resumed_run_counts_its_rounds_from_where_it_was():
    track = Track(Clock())
    track.see(Event("resumed", 2))
    for event in round_events(3, seconds=8, rounds=4):
        track.see(event)
    assert track.seconds_left == pytest.approx(8)


def test_the_best_round_is_remembered():
    track = Track(Clock())
    for number_, score in ((1, 0.1), (2, 0.3), (3, 0.2)):
        for event in round_events(number_, score=score):
            track.see(event)
    assert track.best_round == 2


def test_a_second_run_starts_from_nothing():
    track = Track(Clock())
    for event in round_events(1):
        track.see(event)
    track.see(Event("clients_made", data={"sizes": {"other": 4}}))
    assert (track.round, track.best_round, list(track.clients), track.seconds_left) == (0, 0, ["other"], None)


def test_the_log_has_one_line_per_client_and_one_per_round():
    stream = io.StringIO()
    log = PlainLog(Console(file=stream, width=300))
    for event in [*round_events(1), *round_events(2, score=0.05)]:
        log(event)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == "Round 1 of 4, client-0: training loss 3.2500, 2,000 tokens/s, 2.5 s"
    assert lines[2] == (
        "Round 1 of 4: validation NDCG@10 0.1000 (best so far), worst client-1 0.1000, 10 s, at most 30 s left"
    )
    assert "(best: round 1)" in lines[5]


def test_a_round_that_is_judged_by_loss_says_loss():
    stream = io.StringIO()
    log = PlainLog(Console(file=stream, width=300))
    log(Event("round_started", 1, data={"rounds": 1, "clients": NAMES}))
    for name, loss in (("client-0", 2.0), ("client-1", 3.0)):
        log(Event("client_validated", 1, name, {"loss": loss, "improved": True}))
    log(Event("round_finished", 1, data={"score": -2.5, "seconds": {"total": 1.0}}))
    assert "validation loss 2.5000 (best so far), worst client-1 3.0000" in stream.getvalue()


def test_a_round_without_validation_users_says_so():
    stream = io.StringIO()
    PlainLog(Console(file=stream, width=300))(
        Event("round_finished", 1, data={"score": None, "seconds": {"total": 1.0}})
    )
    assert "validation without users" in stream.getvalue()


def drawn(display, screen):
    with screen.capture() as capture:
        screen.print(display.render())
    return capture.get()


def test_the_display_shows_round_client_loss_speed_and_validation(screen):
    display = LiveDisplay(screen)
    for event in round_events(1):
        display(event)
    for event in list(round_events(2))[:2]:
        display(event)
    text = drawn(display, screen)
    for words in ("Round 2 of 4", "training client-0", "50%", "3.5000", "1,234", "0.2000", "best", "left"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_display_of_many_clients_fits_the_screen_and_shows_the_busy_one(screen):
    names = [f"client-{index}" for index in range(500)]
    display = LiveDisplay(screen)
    display(Event("clients_made", data={"sizes": dict.fromkeys(names, 1)}))
    display(Event("round_started", 1, data={"rounds": 1, "clients": names}))
    data = {"step": 1, "steps": 2, "loss": 3.5, "tokens_per_second": 1.0}
    display(Event("training", 1, "client-321", data, transient=True))
    text = drawn(display, screen)
    assert len(text.splitlines()) <= screen.height
    assert text.count("client-321") == 2
    assert "more" in text


def test_what_is_over_stays_above_the_display(screen):
    with LiveDisplay(screen) as display:
        for event in [*round_events(1), *round_events(2, score=0.2)]:
            display(event)
    kept = screen.export_text()
    assert kept.count("Round 1 of 4: validation") == 1
    assert kept.count("Round 2 of 4: validation") == 1


def test_quiet_writes_nothing(capsys):
    with watching(quiet=True) as observer:
        for event in round_events(1):
            observer(event)
    assert capsys.readouterr() == ("", "")


def test_numbers_that_are_not_finite_are_a_dash():
    assert [number(value) for value in (None, float("nan"), float("inf"), 0.12345)] == ["-", "-", "-", "0.1235"]
