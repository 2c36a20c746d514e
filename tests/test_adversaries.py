"""Adversaries that are made for one policy: the linear one, the one that plans, and a film of an episode."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from harden.attacks.linear import LinearAdversary
from support.commands import harden, refused

RELEASED = str(Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo")
QUICK = ["--policy", RELEASED, "--set", "collect.workers=0"]


def test_a_linear_adversary_fills_the_ball_and_each_of_several_acts_on_its_row() -> None:
    obs, centre, spread = torch.randn(3, 2), torch.zeros(2), torch.ones(2)
    weights = torch.zeros(3, 2, 3)
    weights[0, :, 2] = 5.0
    weights[1, :, 2] = -5.0
    weights[2, 0, 0] = 0.1
    radius = torch.tensor(0.2)
    delta = LinearAdversary(weights, centre, spread).perturbation(obs, radius, "linf")
    assert torch.equal(delta[:2], torch.tensor([[0.2, 0.2], [-0.2, -0.2]]))
    torch.testing.assert_close(delta[2], torch.stack((0.02 * obs[2, 0], torch.tensor(0.0))))
    length = LinearAdversary(weights[0], centre, spread).perturbation(obs, radius, "l2").norm(dim=1)
    torch.testing.assert_close(length, torch.full((3,), 0.2))


def test_adversaries_are_made_for_an_evaluation_and_kept(folder: Path) -> None:
    words = ["evaluate", *QUICK, "--attack", "learned,critic-free", "--episodes", "1", "--attack-steps", "2"]
    words += ["--restarts", "1", "--independent", "kept", "--set", "evaluate.learned_rounds=1"]
    words += ["--set", "evaluate.learned_episodes=2", "--set", "evaluate.learned_steps=3"]
    words += ["--set", "evaluate.simulator_episodes=32", "--json", "a.json"]
    harden(*words)
    first = json.loads(Path("a.json").read_text())
    assert [len(one["costs"]) for one in (*first["learned"], *first["critic_free"])] == [2, 1]
    assert first["learned"][0]["digest"]
    by_name = {one["attack"]: one for one in first["results"]}
    assert by_name["learned"]["critics"] == "learned"
    assert (by_name["critic-free"]["critics"], by_name["critic-free"]["style"]) == (None, "episodes")
    (model,) = Path("kept").glob("learned-*/critics.safetensors")
    written = model.stat().st_mtime_ns
    harden(*words)
    again = json.loads(Path("a.json").read_text())
    assert again["results"] == first["results"]
    assert model.stat().st_mtime_ns == written


def test_a_film_has_the_episode_that_an_evaluation_has(folder: Path) -> None:
    said = harden("render", *QUICK, "--every", "50", "--width", "160", "--attack", "random").output
    harden("evaluate", *QUICK, "--episodes", "1", "--attack", "random", "--json", "a.json")
    (_, random) = json.loads(Path("a.json").read_text())["results"]
    episode = random["per_episode"][0]
    assert f"reward {episode['reward']:.1f}, cost {episode['cost']:.0f} " in said
    with Image.open("episode.gif") as film:
        # clean and attacked, side by side
        assert (film.n_frames, film.size) == (4, (320, 120))
        frames = []
        for place in range(film.n_frames):
            film.seek(place)
            # below the caption, which changes by itself
            frames.append(film.convert("RGB").crop((160, 40, 320, 120)).tobytes())
    assert len(set(frames)) == 4, "something moves"


def test_an_episode_shorter_than_a_frame_is_filmed_in_one(folder: Path) -> None:
    assert (
        "filmed 200 steps in 1 frame:" in harden("render", *QUICK, "--every", "201", "--width", "64").output
    )
    with Image.open("episode.gif") as film:
        assert film.n_frames == 1


def test_what_can_not_be_filmed_is_refused(folder: Path) -> None:
    assert "ends in .gif" in refused("render", *QUICK, "--out", "a.mp4")
    assert "choose from: natural, random" in refused("render", *QUICK, "--attack", "amad")
