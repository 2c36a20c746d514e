"""What long work says of itself, and how long it says that it will take."""

from __future__ import annotations

import math
import sys
import time

import pytest

from harden import progress
from harden.evaluation.trials import _Clock
from harden.progress import Reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still until it is changed."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_line_says_the_time_left_by_the_time_taken(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Reporter().track("fit", 400, "steps") as track:
        clock[0] += 50
        track(100, "loss 1")
        clock[0] += 50
        track(300, left=7200.0)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "fit: 100 of 400 steps (25 %) loss 1  02:30 left"
    assert second.endswith("2:00:00 left")


def test_a_bar_says_it_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Reporter().track("fit", 4, "steps") as track:
        track(1, left=61.0)
        time.sleep(0.15)
        track(2, left=math.nan)
        time.sleep(0.15)
        track(3, left=59.0)
    shown = capsys.readouterr().err
    assert "00:59 left" in shown
    assert "nan" not in shown


def test_the_time_of_attacks_that_are_to_come_is_known_when_one_was_timed(clock: list[float]) -> None:
    runs = _Clock([0.0, 0.0, 250.0, 500.0, 0.0])
    clock[0] += 1
    assert math.isnan(runs.left(0.5)), "no attack was timed"
    for _ in range(2):
        clock[0] += 1
        runs.finished()
    clock[0] += 11
    # an unattacked run takes 2 s, half of an attack 11
    assert runs.left(0.5) == pytest.approx(11 + (2 + 2 * 20) + 2)
    clock[0] += 11
    runs.finished()
    clock[0] += 21
    assert runs.left(0.5) == pytest.approx(21 + 2)
