"""render: an episode as a GIF, clean, and beside it attacked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from harden.config.attacks import ATTACKS, NATURAL
from harden.config.pipeline import PipelineConfig
from harden.config.tasks import Task
from harden.envs.rollout import rollout
from harden.envs.vector import Step, VectorEnv, require_environment
from harden.errors import InputError, known_names
from harden.evaluation.trials import actor
from harden.policies.open import open_policy
from harden.policies.reading import Reading
from harden.progress import QUIET, Reporter
from harden.seeds import episode_seeds
from harden.stages.attackers import Attackers
from harden.stages.evaluate import critics_folder, fitted_folders, trial_of
from harden.stages.ready import Ready
from harden.storage.files import require_writable, write_whole
from harden.training.imitation import CPU

# a GIF's clock ticks in hundredths; viewers slow down what is faster than 50 a second
_FRAME_MS = 40


class Rendered(NamedTuple):
    """What was filmed.

    Args:
        steps: of the episode, the attacked one where there are two; frames: in the file.
        reward, cost: of that episode.
    """

    steps: int
    frames: int
    reward: float
    cost: float


class _Filmed(VectorEnv):
    """One simulation that is filmed while it runs.

    Args:
        task: of it.
        label: what is shown above each picture.
        every: steps a picture; the first step is shown.
        width: of a picture, pixels.
        workers: as in VectorEnv.
        on_step: told how many steps were made.
    """

    def __init__(
        self,
        task: Task,
        label: str,
        every: int,
        width: int,
        workers: int | None,
        on_step: Callable[[int], None],
    ) -> None:
        self.label, self.every, self.width, self.on_step = label, every, width, on_step
        self.steps, self.cost = 0, 0.0
        self.frames: list[Image.Image] = []
        super().__init__(task, 1, workers, film=True)

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance, and take a picture where one is due."""
        step = super().step(slots, actions)
        self.steps, self.cost = self.steps + 1, self.cost + float(step.costs[0])
        # from the first on: an episode shorter than `every` makes a film of one frame
        if (self.steps - 1) % self.every == 0:
            text = f"{self.label}: step {self.steps}, cost {self.cost:.4g}"
            alarm = self.cost > self.task.cost_limit
            self.frames.append(_captioned(self.frame(0, self.width), self.width, text, alarm))
        self.on_step(self.steps)
        return step


def _captioned(pixels: np.ndarray, width: int, text: str, alarm: bool) -> Image.Image:
    """Return a picture in the width asked for with a line of text above it, red where it is an alarm."""
    picture = Image.fromarray(pixels)
    if picture.width != width:
        picture = picture.resize((width, max(round(width * picture.height / picture.width), 1)))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, 15), fill=(207, 34, 46) if alarm else (27, 31, 36))
    draw.text((4, 2), text, fill="white")
    return picture


def _beside(films: list[list[Image.Image]]) -> list[Image.Image]:
    """Return films side by side as one; one that has ended stands still."""
    joined = []
    for index in range(max(map(len, films))):
        shown = [film[min(index, len(film) - 1)] for film in films]
        whole = Image.new("RGB", (sum(one.width for one in shown), max(one.height for one in shown)))
        for place, one in enumerate(shown):
            whole.paste(one, (place * one.width, 0))
        joined.append(whole.quantize(64))
    return joined


def render(
    config: PipelineConfig,
    named: Path | str,
    out: Path,
    *,
    attack: str = NATURAL,
    episode: int = 0,
    every: int = 2,
    width: int = 400,
    reading: Reading = Reading(),  # noqa: B008
    independent: Path | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[Rendered]:
    """Film one episode of an evaluation: clean, and under an attack beside that.

    Args:
        config: task, seed, radius and effort.
        named, reading: the policy, as `evaluate` takes it.
        out: the GIF.
        attack: natural, or a row of ATTACKS.
        episode: which of the evaluation's; the first is the start that `evaluate --episodes 1` has.
        every: steps a frame.
        width: of a frame, pixels.
        independent: where critics fitted here are kept.

    Raises:
        InputError: an unknown attack, or one that can't be played alone, or no policy; `work`: an environment
            that gives no pictures. StorageError: the GIF can't be written.
    """
    if attack != NATURAL and (attack not in ATTACKS or ATTACKS[attack].gated):
        known = [NATURAL, *(name for name, row in ATTACKS.items() if not row.gated)]
        raise InputError(
            f"attack '{attack}' can't be filmed", known_names("" if attack in ATTACKS else attack, known)
        )
    if out.suffix.lower() != ".gif":
        raise InputError(f"{out} is no GIF", "name a file that ends in .gif")
    require_writable(out)
    require_environment(config.task_row)
    loaded, task = open_policy(named, config, report, reading), config.task_row
    folder = independent or critics_folder(Path(named))

    def work() -> Rendered:
        trial = trial_of(config, loaded.policy.differentiable)._replace(episodes=1)
        victim, _ = Attackers(config, loaded, folder, device, report).prepare([attack], [trial])
        start = int(episode_seeds(config.seed, "evaluate", 0, episode + 1)[-1])
        shown = [NATURAL] if attack == NATURAL else [NATURAL, attack]
        films, runs = [], []
        with report.track("render", len(shown) * task.horizon) as track:
            for index, name in enumerate(shown):

                def follow(steps: int, before: int = index * task.horizon) -> None:
                    track(before + steps)

                with _Filmed(task, name, every, width, config.collect.workers, follow) as envs:
                    act = actor(name, victim.to(device), trial, task, device, None)
                    runs.append(rollout(envs, act, [start]))
                films.append(envs.frames)
        frames, run = _beside(films), runs[-1]
        write_whole(out, lambda aside: _save(aside, frames))
        return Rendered(int(run.lengths[0]), len(frames), float(run.rewards[0]), float(run.costs[0]))

    return Ready(work, [Path(named)], [out, *fitted_folders(loaded, [attack], folder)])


def _save(path: Path, frames: list[Image.Image]) -> None:
    first, *rest = frames
    first.save(
        path, format="GIF", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, optimize=True
    )
