"""render: an episode as a GIF, clean or attacked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from harden.nets.saved import LoadedPolicy
from harden.policies.open import open_policy
from harden.progress import Reporter
from harden.seeds import episode_seeds
from harden.stages.attackers import prepare_attacks
from harden.stages.evaluate import critics_folder, fitted_folders, trial_of
from harden.stages.inputs import Inputs
from harden.storage.files import require_writable, write_whole

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


@dataclass(frozen=True, kw_only=True)
class RenderInputs(Inputs):
    """What a film begins with.

    Args:
        config, device: task, seed, radius and effort, and where it is computed.
        loaded: the policy.
        out: the GIF.
        attack: natural, or a row of ATTACKS.
        episode: which of the evaluation's; the first is the start that `evaluate --episodes 1` has.
        every: steps a frame.
        width: of a frame, pixels.
        folder: where critics that are fitted here are kept.
    """

    config: PipelineConfig
    device: torch.device
    loaded: LoadedPolicy
    out: Path
    attack: str
    episode: int
    every: int
    width: int
    folder: Path


def open_render(
    config: PipelineConfig,
    named: Path | str,
    out: Path,
    *,
    attack: str = NATURAL,
    episode: int = 0,
    every: int = 2,
    width: int = 400,
    independent: Path | None = None,
    device: torch.device,
    report: Reporter,
) -> RenderInputs:
    """Open and check what a film needs.

    Args:
        config, out, attack, episode, every, width, device: as in RenderInputs.
        named: the policy, as `evaluate` takes it.
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
    loaded, path = open_policy(named, config, report), Path(named)
    folder = independent or critics_folder(path)
    return RenderInputs(
        config=config,
        device=device,
        loaded=loaded,
        out=out,
        attack=attack,
        episode=episode,
        every=every,
        width=width,
        folder=folder,
        reads=(path,) if path.exists() else (),
        writes=(out, *fitted_folders(loaded, [attack], folder)),
    )


def render(inputs: RenderInputs, report: Reporter) -> Rendered:
    """Film one episode of an evaluation.

    Raises:
        StorageError: the GIF can't be written.
    """
    config, loaded, attack, device = inputs.config, inputs.loaded, inputs.attack, inputs.device
    trial = trial_of(config, loaded)._replace(episodes=1)
    victim, _ = prepare_attacks(
        config, loaded, [attack], [trial], inputs.folder, device=device, report=report
    )
    start = int(episode_seeds(config.seed, "evaluate", 0, inputs.episode + 1)[-1])
    frames: list[Image.Image] = []
    with (
        VectorEnv(config.task_row, 1, workers=0) as envs,
        report.track("render", config.task_row.horizon) as track,
    ):
        assert envs.local is not None
        follow = _filming(Camera(envs.local.envs[0], inputs.width), frames, attack, inputs.every, track)
        run = rollout(
            envs, actor(attack, victim.to(device), trial, config.task_row, device, None), [start], follow
        )
    write_whole(inputs.out, lambda aside: _save(aside, frames))
    return Rendered(int(run.lengths[0]), len(frames), float(run.rewards[0]), float(run.costs[0]))


def _filming(
    camera: Camera, frames: list[Image.Image], attack: str, every: int, track: Callable[..., None]
) -> Callable[[Progress], None]:
    edge = boundary(camera.env)

    def follow(now: Progress) -> None:
        track(now.steps)
        # from the first on: an episode shorter than `every` makes a film of one frame
        if (now.steps - 1) % every == 0:
            place = camera.env.env.agent.get_position()
            outside = edge is not None and abs(place["xy".index(edge.axis)]) > edge.limit
            text = f"{attack}, step {now.steps}" + (", OUTSIDE" if outside else "")
            frames.append(_captioned(camera.frame(), text, outside))

    return follow


def _save(path: Path, frames: list[Image.Image]) -> None:
    first, *rest = frames
    first.save(
        path, format="GIF", save_all=True, append_images=rest, duration=_FRAME_MS, loop=0, optimize=True
    )
