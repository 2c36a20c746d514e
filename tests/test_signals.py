"""Ctrl-C and SIGTERM: every command ends by them, wherever they arrive, with one line and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harden import signals
from harden.cli import main
from harden.errors import HardenError, Interrupted, Terminated
from harden.progress import Reporter

NUMBERS = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give this process its handlers back, and forget what came."""
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGALRM)}
    hook = sys.unraisablehook
    signals.listen()
    yield
    signals.listen()
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


def test_a_stop_is_no_failure() -> None:
    """Whoever handles failures would take a stop for one, and go on."""
    for kind in NUMBERS.values():
        assert not issubclass(kind, (HardenError, Exception, KeyboardInterrupt))


@pytest.mark.parametrize("number", NUMBERS)
def test_one_in_a_destructor_is_raised_behind_it(number: signal.Signals) -> None:
    class Lost:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    Lost()
    with pytest.raises(NUMBERS[number]):
        time.sleep(1)


@pytest.mark.parametrize("total", [0, 10])
def test_one_that_somebody_catches_is_raised_where_work_goes_on(total: int) -> None:
    with Reporter(quiet=True).track("work", total) as track:
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated):
            track(1)


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_somebody_catches_ends_the_command(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    def deaf(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            if fails:
                raise HardenError("it is said to be something else") from error

    monkeypatch.setattr(main.commands["list"], "callback", deaf)
    result = CliRunner().invoke(main, ["list", "tasks"])
    (line,) = result.output.splitlines()
    assert (result.exit_code, "stopped by SIGTERM" in line) == (143, True)


@pytest.mark.parametrize("number", NUMBERS)
def test_one_that_comes_while_the_program_is_imported_is_one_line(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The program's first lines are ours: what comes later finds the handlers, in whatever import."""
    (tmp_path / "click.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")
    search = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-m", "harden", "list", "tasks"],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == NUMBERS[number].exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: stopped by")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_one_that_comes_at_any_step_of_a_write_leaves_the_old_or_the_new(tmp_path: Path, what: str) -> None:
    program = Path(__file__).parent / "support" / "interrupted.py"
    words = [sys.executable, str(program), what, str(tmp_path)]
    steps = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(steps) == 1, steps
    assert int(steps[0].split()[0]) > 300
