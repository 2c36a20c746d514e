"""A sweep: the runs that the ledger lacks, how long they take, and doing them in processes."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harden.benchmark.job import spec_of, workspace_of
from harden.benchmark.ledger import Entry, entry_path, finished, read_ledger, write_failure
from harden.benchmark.tables import Job
from harden.storage.files import make_folder, read_json

# how often a run is begun again after its process was lost
RETRIES = 2
_POLL_S = 0.2


class Left(NamedTuple):
    """What a sweep has to do.

    Args:
        todo: runs that are not in the ledger, in their order.
        failed: runs that failed before, with the reason; they are in `todo` where they are to be tried again.
        done: how many are finished.
    """

    todo: list[Job]
    failed: list[tuple[Job, str]]
    done: int


def what_is_left(jobs: Sequence[Job], ledger: Path, again: bool = False) -> Left:
    """Return which runs the ledger lacks; `again` counts those among them that failed."""
    entries = read_ledger(ledger)
    states = [(job, entries.get(job.key, {})) for job in jobs]
    failed = [(job, entry["reason"]) for job, entry in states if entry.get("status") == "failed"]
    wanted = {None, "failed"} if again else {None}
    todo = [job for job, entry in states if entry.get("status") in wanted]
    return Left(todo, failed, sum(entry.get("status") == "finished" for _, entry in states))


def minutes(job: Job, entries: Sequence[Entry]) -> float | None:
    """Return how long a run takes, by finished runs of its variant and preset, or None where there are none.

    Runs of its task count where there are any, those of other tasks otherwise.
    """
    wanted = job.variant, job.config.preset
    alike = [entry for entry in entries if (entry["variant"], entry["config"]["preset"]) == wanted]
    alike = [entry for entry in alike if entry["task"] == job.task] or alike
    if not alike:
        return None
    paces = [entry["trained"]["wall_time_s"] / entry["trained"]["env_steps"] for entry in alike]
    trying = statistics.median(entry["evaluation_s"] for entry in alike)
    return (statistics.median(paces) * job.config.train.env_steps + trying) / 60


def length(jobs: Sequence[Job], ledger: Path, workers: int) -> str:
    """Return in words how long runs take with so many at a time."""
    entries = finished(ledger)
    known = [spent for job in jobs if (spent := minutes(job, entries)) is not None]
    total = f"about {sum(known) / min(workers, max(len(jobs), 1)):.0f} min" if known or not jobs else ""
    unknown = f"{len(jobs) - len(known)} of unknown length" if len(known) < len(jobs) else ""
    return ", ".join(part for part in (total, unknown) if part)


def sweep(jobs: Sequence[Job], ledger: Path, work: Path, workers: int, say: Callable[[str], None]) -> int:
    """Do runs, `workers` at a time, and say after each what is left; returns how many failed."""
    waiting, failures = list(jobs), 0
    for job, lost in run_processes(jobs, ledger, work, workers):
        waiting.remove(job)
        path = entry_path(ledger, job)
        if lost:
            write_failure(path, job, lost)
        entry = read_json(path, "harden benchmark")
        failures += entry["status"] == "failed"
        outcome = f"failed: {entry['reason']}" if entry["status"] == "failed" else "finished"
        say(f"{describe(job)}: {outcome}; left: {len(waiting)} runs, {length(waiting, ledger, workers)}")
    return failures


def describe(job: Job) -> str:
    """Return a run in words."""
    return f"{job.task} {job.row} seed {job.seed}"


class _Running(NamedTuple):
    job: Job
    attempt: int
    process: subprocess.Popen[str]

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def _start(job: Job, attempt: int, ledger: Path, work: Path) -> _Running:
    spec = spec_of(job, ledger, work)
    log_path = workspace_of(spec).run.parent.parent / "log.txt"
    make_folder(log_path.parent)
    words = [sys.executable, "-m", "harden.benchmark.job"]
    with open(log_path, "a") as log:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
    assert process.stdin is not None
    # left open: the process ends when it closes, so none outlives this one
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
    return _Running(job, attempt, process)


def run_processes(jobs: Sequence[Job], ledger: Path, work: Path, workers: int) -> Iterator[tuple[Job, str]]:
    """Do jobs in processes, `workers` at a time; yields each that is done, and why it was lost or "".

    A job that fails writes that to the ledger itself. Stopping the iteration ends the processes; their runs
    go on from the last refresh the next time.
    """
    waiting = deque((job, 1) for job in jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(*waiting.popleft(), ledger, work))
            time.sleep(_POLL_S)
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                run.close()
                code = run.process.returncode
                if code == 0:
                    yield run.job, ""
                elif run.attempt <= RETRIES:
                    waiting.appendleft((run.job, run.attempt + 1))
                else:
                    yield run.job, f"its process was lost {run.attempt} times (exit code {code})"
    finally:
        for run in running:
            run.close()
