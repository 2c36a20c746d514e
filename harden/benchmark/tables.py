"""The paper's tables: which runs each of them needs, and in which order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from harden.config.file import find_pipeline, load_config, paper_settings
from harden.config.pipeline import PipelineConfig
from harden.errors import InputError

# Drone-Run as the paper's copy of the simulator has it
TASKS = ("ball-circle", "car-circle", "drone-run-paper", "ant-run")
REMOVALS = ("safer-no-vm", "safer-no-kl", "safer-no-mle")
ON_POLICY = ("ppol", "sa-ppol", "sa-ppol-mc", "adv-ppol")
# table5 contains Table 2, table8 Table 3; safer-long, safer-model and ppol are in none of the paper's
TABLES: dict[str, tuple[str, ...]] = {
    "table5": ("cvpo", "safer", "safer-long", "safer-model", "cvpo-random", "adv-cvpo", *ON_POLICY),
    "table6": ("cvpo", "safer", "adv-em-cvpo"),
    "table7": ("safer",),
    "table8": ("cvpo", "safer", *REMOVALS),
    "figure2": ("safer", "safer-long", *ON_POLICY),
}
# Table 7's values of the adversarial KL threshold
THRESHOLDS: dict[str, tuple[float, ...]] = {
    "ball-circle": (0.03, 0.05, 0.07, 0.09, 0.11),
    "car-circle": (0.01, 0.02, 0.03, 0.05, 0.09),
    "ant-run": (0.05, 0.07, 0.09, 0.11, 0.12),
}


class Job(NamedTuple):
    """One run: a policy trained and tried.

    Args:
        task, variant, seed: what is trained.
        row: what a table calls it: the variant, with the threshold where that is not Table 4's.
        budget: how its size is called: reduced (the pipeline file's), paper, or what was asked for.
        config: resolved, with the seed in it.
    """

    task: str
    variant: str
    seed: int
    row: str
    budget: str
    config: PipelineConfig

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What a run is known by: a configuration that is the same is not run again."""
        return self.task, self.variant, self.seed, digest(self.config)

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.row}-seed{self.seed}-{digest(self.config)}"


class Budget(NamedTuple):
    """How large the runs are.

    Args:
        paper: the paper's own settings and sizes (harden/config/paper.toml).
        env_steps: steps of simulation of every run, in place of the pipeline's.
        keys: further `key=value` assignments.
        name: what tables call it, else it is made of the above.
    """

    paper: bool = False
    env_steps: int | None = None
    keys: tuple[str, ...] = ()
    name: str | None = None

    @property
    def label(self) -> str:
        """What tables call it: runs of one label stand beside each other."""
        steps = "" if self.env_steps is None else f", {self.env_steps:,} steps"
        # how many processes simulate changes no result, as in `digest`
        changed = sum(not key.startswith("collect.workers=") for key in self.keys)
        keys = f", {changed} keys changed" if changed else ""
        return self.name or f"{'paper' if self.paper else 'reduced'}{steps}{keys}"

    @property
    def assignments(self) -> list[str]:
        """It as assignments of `--set`."""
        steps = [] if self.env_steps is None else [f"train.env_steps={self.env_steps}"]
        return [*["preset=paper"] * self.paper, *steps, *self.keys]


def digest(config: PipelineConfig) -> str:
    """Return the digest of all that a result depends on but the seed.

    A variant that meets no adversary does not become another one by what it is told of one; its radius alone
    counts where random noise in roll-outs has it.
    """
    tree = config.model_dump(mode="json", exclude={"seed": True, "collect": {"workers"}})
    if not config.variant_row.adversarial:
        noisy = config.behaviour == "policy-noise"
        tree["adversary"] = {"epsilon": config.adversary.epsilon} if noisy else {}
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def row_of(task: str, variant: str, threshold: float | None) -> str:
    """Return a row's name: Table 4's own threshold is the full method's row."""
    if threshold is None or threshold == paper_settings(task, False)["mstep"]["kl_robust_mean"]:
        return variant
    return f"{variant}-xi-{threshold:g}"


def make_job(task: str, variant: str, seed: int, budget: Budget, threshold: float | None = None) -> Job:
    """Return a run, from the task's pipeline file; errors as `load_config`.

    Args:
        threshold: of the adversarial KL, xi-tilde, its part of the spread a tenth; None leaves the file's.
    """
    path = find_pipeline(Path("pipelines") / f"{task}.toml")
    bound = []
    if threshold is not None:
        bound = [f"mstep.kl_robust_mean={threshold!r}", f"mstep.kl_robust_std={threshold / 10!r}"]
    asked = [f'task="{task}"', f'variant="{variant}"', f"seed={seed}", *bound, *budget.assignments]
    row = row_of(task, variant, threshold)
    return Job(task, variant, seed, row, budget.label, load_config(path, asked))


def jobs(
    tables: Sequence[str], tasks: Iterable[str], variants: Iterable[str], seeds: Iterable[int], budget: Budget
) -> list[Job]:
    """Return the runs that tables need, all methods and tasks of a seed before the next, and none twice.

    Args:
        tables: names of TABLES.
        tasks, variants: keep these; variants empty keeps all.

    Raises:
        MissingInputError: a task has no pipeline file.
    """
    order = sorted({(seed, TASKS.index(task), task) for task in tasks for seed in seeds})
    only, by_key = set(variants), dict[tuple[str, str, int, str], Job]()
    for seed, _, task in order:
        for table in tables:
            thresholds = THRESHOLDS.get(task, ()) if table == "table7" else (None,)
            for variant in TABLES[table]:
                for threshold in thresholds if not only or variant in only else ():
                    job = make_job(task, variant, seed, budget, threshold)
                    by_key.setdefault(job.key, job)
    if not by_key:
        known = dict.fromkeys(variant for table in tables for variant in TABLES[table])
        raise InputError(
            "no run is left of that choice", f"variants of {', '.join(tables)}: {', '.join(known)}"
        )
    return list(by_key.values())
