"""Who does the jobs: processes of this machine, or a Ray cluster. A lost worker's job is given out again.

Both take jobs as plain values with paths, on a disk that all workers see, and give paths back. A job that
fails writes that to the ledger itself; what comes back as lost is one whose worker died each time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harden.benchmark.job import Spec, job_of, place_of, run_job
from harden.benchmark.ledger import entry_path
from harden.errors import InputError
from harden.storage.files import make_folder

# how often a job is given out again after its worker was lost
RETRIES = 2
_POLL_S = 0.2


class Outcome(NamedTuple):
    """What became of a job.

    Args:
        place: among the jobs.
        entry: the path of the ledger's entry, None where every worker was lost.
        reason: why there is none.
    """

    place: int
    entry: str | None
    reason: str = ""


class _Running(NamedTuple):
    place: int
    attempt: int
    process: subprocess.Popen[str]


def log_path(spec: Spec) -> Path:
    """Return where a job's process writes what it has to say."""
    return place_of(spec).run.parent.parent / "log.txt"


def _start(index: int, attempt: int, spec: Spec) -> _Running:
    path = log_path(spec)
    make_folder(path.parent)
    words = [sys.executable, "-m", "harden.benchmark.job"]
    with open(path, "a") as log:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
    assert process.stdin is not None
    # left open: the process ends when it closes, so none outlives this one
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
    return _Running(index, attempt, process)


def run_local(specs: Sequence[Spec], workers: int) -> Iterator[Outcome]:
    """Do jobs in processes of this machine, `workers` at a time; what is done is said as it is done.

    Stopping the iteration ends the processes; their runs go on from the last refresh the next time.
    """
    waiting = deque((index, 1) for index in range(len(specs)))
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, attempt = waiting.popleft()
                running.append(_start(index, attempt, specs[index]))
            time.sleep(_POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                _close(one)
                code = one.process.returncode
                if code == 0:
                    yield Outcome(one.place, _entry(specs[one.place]))
                elif one.attempt <= RETRIES:
                    waiting.appendleft((one.place, one.attempt + 1))
                else:
                    yield Outcome(one.place, None, _lost(one.attempt, f"exit code {code}"))
    finally:
        for one in running:
            _close(one)


def _close(one: _Running) -> None:
    assert one.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        one.process.stdin.close()
    one.process.wait()


def _entry(spec: Spec) -> str:
    return str(entry_path(Path(spec["ledger"]), job_of(spec)))


def _lost(attempts: int, why: str) -> str:
    return f"its worker was lost {attempts} times (last: {why})"


def run_ray(specs: Sequence[Spec], workers: int) -> Iterator[Outcome]:
    """Do jobs on a Ray cluster, one CPU each: that of RAY_ADDRESS, else one begun here with `workers` CPUs.

    Stopping the iteration ends the jobs that are under way.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError("Ray is not installed", "install it with: pip install 'harden[ray]'") from None
    began = not ray.is_initialized()
    if began:
        _connect(ray, workers)
    # what a job does wrong it writes down itself; retries are for workers that died
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(run_job)
    waiting = {remote.remote(spec): index for index, spec in enumerate(specs)}
    try:
        while waiting:
            (done, *_), _rest = ray.wait(list(waiting), num_returns=1)
            index = waiting.pop(done)
            try:
                yield Outcome(index, ray.get(done))
            except ray.exceptions.RayError as error:
                said = str(error).strip().splitlines() or [type(error).__name__]
                yield Outcome(index, None, _lost(RETRIES + 1, said[-1] if len(said) == 1 else said[0]))
    finally:
        for job in waiting:
            ray.cancel(job, force=True)
        if began:
            ray.shutdown()


def _connect(ray: Any, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"no Ray cluster ({error})", "set RAY_ADDRESS, or unset it to begin one") from None


EXECUTORS: dict[str, Callable[[Sequence[Spec], int], Iterator[Outcome]]] = {
    "local": run_local,
    "ray": run_ray,
}
