"""What all stage commands share: their options, and the context made of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(path_type=Path)


@dataclasses.dataclass(frozen=True)
class Context:
    """What every stage command begins with."""

    config: Any
    place: Any
    device: Any
    report: Any
    dry_run: bool


def stage_options(command: F) -> F:
    """Give a command the options that all stages share, and hand it a Context."""

    @click.option(
        "-p", "--pipeline", type=FOLDER, default=None, help="Pipeline file [pipelines/ball-circle.toml]."
    )
    @click.option(
        "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the pipeline."
    )
    @click.option("--seed", type=int, default=None, help="Seed of everything random.")
    @click.option("--device", default="auto", help="auto, cpu or cuda.")
    @click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of the mathematics [1].")
    @click.option("--quiet", is_flag=True, help="Say nothing but the result.")
    @click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, do nothing.")
    @functools.wraps(command)
    def wrapped(
        pipeline: Path | None,
        assignments: tuple[str, ...],
        seed: int | None,
        device: str,
        threads: int,
        quiet: bool,
        dry_run: bool,
        **options: Any,
    ) -> Any:
        import torch

        from harden.pipeline_file import DEFAULT_PIPELINE, find_pipeline, load_config
        from harden.progress import Reporter
        from harden.stages.workspace import pick_device, workspace

        path = pipeline or DEFAULT_PIPELINE
        extra = [*assignments, *([f"seed={seed}"] if seed is not None else []), *_as_keys(options)]
        config = load_config(find_pipeline(path), extra)
        # one by default: more are no faster on networks this small, and results would depend on the machine
        torch.set_num_threads(threads)
        where = workspace(path.stem)
        context = Context(config, where, pick_device(device), Reporter(quiet), dry_run)
        if dry_run:
            click.echo(
                json.dumps({"pipeline": where.name, "config": config.model_dump(mode="json")}, indent=2)
            )
            return None
        return command(context, **options)

    return wrapped  # type: ignore[return-value]


_KEYS = {
    "env_steps": "train.env_steps",
    "variant": "variant",
    "epsilon": "evaluate.epsilon",
    "attack_style": "evaluate.attack_style",
    "attack_steps": "evaluate.attack_steps",
    "restarts": "evaluate.restarts",
    "eval_episodes": "evaluate.episodes",
    "norm": "evaluate.norm",
    "action": "evaluate.action",
}


def _as_keys(options: dict[str, Any]) -> list[str]:
    """Take out the options that are short names of pipeline keys."""
    taken = {name: options.pop(name) for name in list(options) if name in _KEYS}
    given = {_KEYS[name]: value for name, value in taken.items() if value is not None}
    # as TOML: its strings are JSON's, its numbers (nan among them) are Python's
    return [f"{k}={json.dumps(v) if isinstance(v, str) else repr(v)}" for k, v in given.items()]
