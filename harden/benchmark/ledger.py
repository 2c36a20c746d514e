"""The ledger: one JSON a run, finished or failed, below benchmarks/results/ledger/<task>/."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from harden.benchmark.tables import Job, digest
from harden.config.pipeline import make_config, renamed
from harden.errors import InputError
from harden.storage.files import read_json, write_json

FORMAT_VERSION = 1
Entry = dict[str, Any]
Key = tuple[str, str, int, str]


def entry_path(root: Path, job: Job) -> Path:
    """Return where a run's entry is written."""
    return root / job.task / f"{job.name}.json"


def heading(job: Job) -> Entry:
    """Return what an entry says of a run before it is done."""
    return {
        "format_version": FORMAT_VERSION,
        "task": job.task,
        "variant": job.variant,
        "row": job.row,
        "budget": job.budget,
        "seed": job.seed,
        "digest": digest(job.config),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "episodes": job.config.evaluate.episodes,
        "epsilon": job.config.eval_epsilon,
        "config": job.config.model_dump(mode="json", exclude={"collect": {"workers"}}),
    }


def write_failure(path: Path, job: Job, reason: str) -> None:
    """Record that a run failed, and why; a run that is finished stays so."""
    if not (path.is_file() and read_json(path, "harden benchmark").get("status") == "finished"):
        write_json(path, heading(job) | {"status": "failed", "reason": reason})


def read_ledger(root: Path) -> dict[Key, Entry]:
    """Return all entries by what their runs are known by.

    The digest is that of the stored configuration as it is read today: a key that came since has its default,
    so that a new key does not make every run a stranger. What no longer can be read keeps its old digest.

    Raises:
        DamagedFileError: a file is not JSON.
    """
    by_key: dict[Key, Entry] = {}
    for path in sorted(root.glob("*/*.json")):
        entry = read_json(path, "harden benchmark")
        try:
            now = digest(make_config(renamed(entry["config"])))
        except InputError:
            now = entry["digest"]
        key = entry["task"], entry["variant"], entry["seed"], now
        # of two files on one run, one that is finished counts
        if key not in by_key or entry["status"] == "finished":
            by_key[key] = entry | {"digest": now}
    return by_key


def finished(root: Path) -> list[Entry]:
    """Return the entries of finished runs, in the order of their files."""
    return [entry for entry in read_ledger(root).values() if entry["status"] == "finished"]
