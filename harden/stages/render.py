"""render: an episode as a GIF, clean or attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw

from harden.attacks import ATTACKS
from harden.config.pipeline import PipelineConfig
from harden.envs.replay import Camera, boundary
from harden.envs.rollout import Progress, rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.evaluation.entries import NATURAL
from harden.evaluation.trials import actor
from harden.policies.open import open_policy
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
        steps: of the episode; frames: in the file.
        reward, cost: of the episode.
    """

    steps: int
    frames: int
    reward: float
    cost: float


def _captioned(pixels: Any, text: str, alarm: bool) -> Image.Image:
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, picture.width, 15), fill=(207, 34, 46) if alarm else (27, 31, 36))
    draw.text((4, 2), text, fill="white")
    return picture.quantize(64)


def render(
    config: PipelineConfig,
    named: Path | str,
    out: Path,
    *,
    attack: str = NATURAL,
    episode: int = 0,
    every: int = 2,
    width: int = 400,
    independent: Path | None = None,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[Rendered]:
    """Film one episode of an evaluation.

    Args:
        config: task, seed, radius and effort.
        named: the policy, as `evaluate` takes it.
        out: the GIF.
        attack: natural, or a row of ATTACKS.
        episode: which of the evaluation's; the first is the start that `evaluate --episodes 1` has.
        every: steps a frame.
        width: of a frame, pixels.
        independent: where critics fitted here are kept.

    Raises:
        InputError: an unknown attack, or one that can't be played alone, or no policy; StorageError: the GIF
            can't be written.
    """
    if attack != NATURAL and (attack not in ATTACKS or ATTACKS[attack].gated):
        known = [NATURAL, *(name for name, row in ATTACKS.items() if not row.gated)]
        raise InputError(f"attack '{attack}' can't be filmed", f"choose from: {', '.join(known)}")
    if out.suffix.lower() != ".gif":
        raise InputError(f"{out} is no GIF", "name a file that ends in .gif")
    require_writable(out)
    loaded, task = open_policy(named, config, report), config.task_row
    folder = independent or critics_folder(Path(named))

    def work() -> Rendered:
        trial = trial_of(config, loaded.policy.differentiable)._replace(episodes=1)
        victim, _ = Attackers(config, loaded, folder, device, report).prepare([attack], [trial])
        start = int(episode_seeds(config.seed, "evaluate", 0, episode + 1)[-1])
        frames: list[Image.Image] = []
        with VectorEnv(task, 1, workers=0) as envs, report.track("render", task.horizon) as track:
            assert envs.local is not None
            camera = Camera(envs.local.envs[0], width)
            edge = boundary(camera.env)

            def follow(now: Progress) -> None:
                track(now.steps)
                # from the first on: an episode shorter than `every` makes a film of one frame
                if (now.steps - 1) % every == 0:
                    xyz = camera.env.env.agent.get_position()
                    outside = edge is not None and abs(xyz["xy".index(edge.axis)]) > edge.limit
                    text = f"{attack}, step {now.steps}" + (", OUTSIDE" if outside else "")
                    frames.append(_captioned(camera.frame(), text, outside))

            act = actor(attack, victim.to(device), trial, task, device, None)
            run = rollout(envs, act, [start], follow)
        write_whole(out, lambda aside: _save(aside, frames))
        return Rendered(int(run.lengths[0]), len(frames), float(run.rewards[0]), float(run.costs[0]))

    return Ready(work, [Path(named)], [out, *fitted_folders(loaded, [attack], folder)])


def _save(path: Path, frames: list[Image.Image]) -> None:
    first, *rest = frames
    first.save(
        path, format="GIF", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, optimize=True
    )
