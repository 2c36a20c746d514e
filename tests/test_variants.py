"""The variants: their rows against the paper's boxes, and each row's own difference in a real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from harden.config.sections import PLAIN_ROLL_OUTS, Collect
from harden.config.tasks import TASKS
from harden.config.variants import VARIANTS
from harden.data.dataset import DatasetWriter, open_dataset
from harden.data.targets import read_targets
from harden.envs.vector import VectorEnv
from harden.method import adversary as adversary_ops
from harden.method import critic_step as critic_ops
from harden.method import e_step as estep_ops
from harden.method import imagination
from harden.method import m_step as mstep_ops
from harden.method.adversary import mc_attack
from harden.method.critic_step import draw_batch
from harden.method.e_step import EStepStates, e_step
from harden.method.learner import new_learner
from harden.method.m_step import attack_states, lagrangian
from harden.method.schedules import scheduled
from harden.nets import GaussianPolicy
from harden.nets.saved import load_policy
from harden.seeds import episode_seeds
from harden.training import collection
from harden.training.collection import Exploration, make_actor
from harden.types import Targets
from support.commands import ALLOW, SETTINGS, assert_same_run, harden, stop_after
from support.learners import EPSILON, batch, configure
from support.transitions import gap


class Box(NamedTuple):
    """What a method's box in the paper says, in the paper's terms."""

    rollout: str
    transition: str
    replayed: str
    critic_future: str
    m_step: frozenset[str]


BENIGN = "pi(.|s)", "(s, a, s', r, c)", "(s, a, s', r, c)", "pi(.|s')"
VANILLA, MLE, KL = "Eq. 7", "Eq. 8 objective", "Eq. 8 constraint"
BOXES = {
    # Algorithm 1 and 2: lines 1 and 3 roll out benign trajectories, line 11 solves (7) and (8)
    "safer": Box(*BENIGN, frozenset({VANILLA, MLE, KL})),
    # ours: Eq. 59 with a' from pi(.|nu(s'))
    "safer-long": Box(*BENIGN[:3], "pi(.|nu(s'))", frozenset({VANILLA, MLE, KL})),
    # ours: as safer-long, and the E-step's particles are drawn at nu(s) too; no Eq. 8
    "safer-model": Box(*BENIGN[:3], "pi(.|nu(s'))", frozenset({VANILLA})),
    # Algorithm 6
    "cvpo": Box(*BENIGN, frozenset({VANILLA})),
    # B.2.3: "we simply add random noise when collecting the data"
    "cvpo-random": Box("pi(.|noisy s)", "(noisy s, a, s', r, c)", *BENIGN[2:], frozenset({VANILLA})),
    # B.2.3: line 3 of Algorithm 6 becomes (nu(s), a, s', r, c), a ~ pi(.|nu(s))
    "adv-cvpo": Box("pi(.|nu(s))", "(nu(s), a, s', r, c)", *BENIGN[2:], frozenset({VANILLA})),
    # B.2.3: line 5 of Algorithm 6 becomes (nu(s), a, s', r, c)
    "adv-em-cvpo": Box(*BENIGN[:2], "(nu(s), a, s', r, c)", BENIGN[3], frozenset({VANILLA})),
    # 5.2 and Table 8: each removes one component of the robust M-step
    "safer-no-vm": Box(*BENIGN, frozenset({MLE, KL})),
    "safer-no-kl": Box(*BENIGN, frozenset({VANILLA, MLE})),
    "safer-no-mle": Box(*BENIGN, frozenset({VANILLA, KL})),
}


OFF_POLICY = [row.name for row in VARIANTS.values() if not row.on_policy]


def m_step_terms(name: str) -> frozenset[str]:
    """Return the terms that the Lagrangian of a variant has, by what moves it."""
    learner, config = new_learner(configure(), torch.device("cpu")), configure().mstep
    targets = e_step(learner, EStepStates.clean(torch.randn(20, 8)), configure(), scheduled(configure(), 0))[
        0
    ]
    adv, ones = targets.obs + 0.5, torch.ones(2)

    def loss(moved: Targets = targets, obs_adv: torch.Tensor = adv, robust: torch.Tensor = ones) -> float:
        config_ = config.model_copy(update={"kl_robust_weight": 1e3})
        return float(
            lagrangian(learner.policy, moved, obs_adv, ones, robust, config_, VARIANTS[name]).loss.detach()
        )

    plain, found = loss(), set()
    if loss(targets._replace(old_mean=targets.old_mean + 0.1)) != plain:
        found.add(VANILLA)
    if loss(robust=5 * ones) != plain:
        found.add(KL)
    # with the KL's multiplier at the floor, only the likelihood still sees nu(s)
    if loss(robust=-1e6 * ones) != loss(robust=-1e6 * ones, obs_adv=adv + 0.1):
        found.add(MLE)
    return frozenset(found)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_a_row_does_what_its_box_says_term_by_term(folder: Path, name: str, monkeypatch) -> None:
    attacked = set()

    def spy(where: str) -> Any:
        def attack(policy: Any, critics: Any, obs: torch.Tensor, epsilon: float, *rest: Any) -> torch.Tensor:
            if epsilon > 0:
                attacked.add(where)
            return mc_attack(policy, critics, obs, epsilon, *rest)

        return attack

    for module in (collection, adversary_ops, critic_ops, estep_ops, imagination, mstep_ops):
        monkeypatch.setattr(module, "mc_attack", spy(module.__name__.rpartition(".")[2]))
    harden("train", *SETTINGS, "--variant", name, ALLOW)
    data, row = open_dataset(folder / "datasets/ball-circle"), VARIANTS[name]
    (behaviour,) = {shard.behaviour for shard in data.info.shards}
    acts = {"policy-sample": "s", "policy-noise": "noisy s", "mc": "nu(s)"}[behaviour]
    assert ("collection" in attacked) == (behaviour == "mc")
    seen = Box(
        rollout=f"pi(.|{acts})",
        transition=f"({acts}, a, s', r, c)",
        replayed="(nu(s), a, s', r, c)" if "adversary" in attacked else "(s, a, s', r, c)",
        critic_future="pi(.|nu(s'))" if "critic_step" in attacked else "pi(.|s')",
        m_step=m_step_terms(name),
    )
    assert seen == BOXES[name]
    assert ("m_step" in attacked) == bool(seen.m_step & {MLE, KL})
    assert {"imagination", "e_step"} <= attacked if row.imagined else not {"imagination", "e_step"} & attacked
    assert row.adversarial == bool(attacked)


@pytest.mark.parametrize(
    ("name", "behaviour"), [("cvpo", "policy-sample"), ("cvpo-random", "policy-noise"), ("adv-cvpo", "mc")]
)
def test_only_the_stored_observation_is_disturbed(folder: Path, name: str, behaviour: str) -> None:
    """The simulator, given the stored actions again, ends each step in the stored next observation."""
    words = ["--set", "train.env_steps=800", "--set", "adversary.ramp=0.0"]
    harden("train", *SETTINGS, *words, "--variant", name, ALLOW)
    dataset = open_dataset(folder / "datasets/ball-circle")
    assert [shard.behaviour for shard in dataset.info.shards] == [behaviour] * 2
    data = dataset.read(400, 800)
    seeds = episode_seeds(0, "collect", 2, 2)
    with VectorEnv(TASKS["ball-circle"], 2, 0) as envs:
        first = envs.reset(np.arange(2), seeds)
        true = [first]
        for t in range(200):
            step = envs.step(np.arange(2), data.actions.view(2, 200, 2)[:, t].numpy())
            true.append(step.obs)
    simulated = torch.from_numpy(np.stack(true, 1))
    torch.testing.assert_close(data.next_obs.view(2, 200, 8), simulated[:, 1:], rtol=0, atol=0)
    moved = (data.obs.view(2, 200, 8) - simulated[:, :-1]).abs().amax(2)
    assert float(moved.max()) <= EPSILON * 1.0001
    if name == "cvpo":
        assert float(moved.max()) == 0.0
    else:
        assert float(moved.max()) > 0.9 * EPSILON
        assert float((moved > 0).float().mean()) > 0.5


def test_the_attacked_policy_acts_on_what_is_stored() -> None:
    policy = GaussianPolicy(8, 2, (16,), init_std=2e-6, min_std=1e-6)
    with torch.no_grad():
        policy.mean_head.weight.mul_(20)
    obs = torch.randn(30, 8)
    draw = torch.Generator().manual_seed(0)
    explore = Exploration(30, 2, Collect.model_validate(PLAIN_ROLL_OUTS), draw)
    act = make_actor("mc", policy, TASKS["ball-circle"], draw, 0.0, explore, lambda seen: seen + EPSILON)
    acted = act(obs, torch.arange(30))
    torch.testing.assert_close(acted.obs, obs + EPSILON)
    with torch.no_grad():
        torch.testing.assert_close(acted.actions, policy.mean(obs + EPSILON), atol=1e-4, rtol=0)
        assert float((acted.actions - policy.mean(obs)).abs().max()) > 1e-3


def test_a_policy_can_be_attacked_by_its_own_critics_while_it_acts(folder: Path) -> None:
    harden("train", *SETTINGS, "--variant", "cvpo", "--set", "train.env_steps=400")
    given = Path("checkpoints/ball-circle/policy").rename(folder / "given")
    (folder / "other.toml").write_text("")
    words = ["-p", "other.toml", *SETTINGS, "--set", "networks.critic_hidden=[5]", "--policy", str(given)]
    harden("collect", *words, "--episodes", "2", "--behaviour", "mc", ALLOW)
    data = open_dataset(folder / "datasets/other").read(0, 400)
    moved = gap(data)
    assert EPSILON * 0.9 < float(moved.max()) <= EPSILON * 1.0001
    victim = load_policy(given)
    assert victim.critics is not None
    rows = torch.arange(199)
    clean, seen = data.next_obs[rows], data.obs[rows + 1]
    with torch.no_grad():
        before = victim.critics.q_cost(clean, victim.policy.mean(clean))
        after = victim.critics.q_cost(clean, victim.policy.mean(seen))
    assert bool((after >= before - 1e-6).all())
    assert float((after > before).float().mean()) > 0.5


def test_adv_em_cvpo_attacks_what_is_replayed_and_not_what_follows() -> None:
    config, replay = configure(variant="adv-em-cvpo", critics={"batch": 64}), batch(256)
    learner = new_learner(config, torch.device("cpu"))
    drawn = draw_batch(learner, replay, config, EPSILON).rewards
    plain = draw_batch(learner, replay, configure(variant="cvpo", critics={"batch": 64}), EPSILON).rewards
    for name in ("actions", "gained", "next_obs", "discounts"):
        assert torch.equal(getattr(drawn, name), getattr(plain, name)), name
    moved = (drawn.obs - plain.obs).abs().amax(1)
    assert 0.9 * EPSILON < float(moved.max()) <= EPSILON * 1.0001
    with torch.no_grad():
        before = learner.critics.q_cost(plain.obs, learner.policy.mean(plain.obs))
        after = learner.critics.q_cost(plain.obs, learner.policy.mean(drawn.obs))
    assert bool((after >= before).all())
    assert torch.equal(draw_batch(learner, replay, config, 0.0).rewards.obs, plain.obs)


def test_adv_em_cvpo_fits_the_policy_at_attacked_states_of_benign_data(folder: Path) -> None:
    harden("train", *SETTINGS, "--variant", "adv-em-cvpo")
    data = open_dataset(folder / "datasets/ball-circle").read(0, 1200)
    assert float(gap(data).max()) == 0.0, "the data themselves are benign"
    targets, _ = read_targets(folder / "checkpoints/ball-circle/targets.h5")
    nearest = torch.cdist(targets.obs, data.obs, p=float("inf")).amin(1)
    assert 0.2 * EPSILON < float(nearest.max()) <= EPSILON * 1.0001
    harden("train", *SETTINGS, "--variant", "safer", "--overwrite")
    data = open_dataset(folder / "datasets/ball-circle").read(0, 1200)
    targets, _ = read_targets(folder / "checkpoints/ball-circle/targets.h5")
    assert float(torch.cdist(targets.obs, data.obs, p=float("inf")).amin(1).max()) < 1e-3


def robust_kl(name: str) -> float:
    """Return the adversarial KL over its bound, of a policy that is to act in two ways side by side."""
    bound = 0.05
    config = configure(
        variant=name,
        mstep={
            "kl_mean": 1e3,
            "kl_std": 1e3,
            "kl_robust_mean": bound,
            "kl_robust_std": bound,
            "beta_robust_rate": 2.0,
            "kl_robust_weight": 1e4,
            "learning_rate": 3e-3,
        },
        adversary={"steps": 2, "step_share": 1.0},
        networks={"reward_critics": 2},
    )
    learner = new_learner(config, torch.device("cpu"))
    obs = torch.randn(64, 8)
    side = obs[:, :1].sign().expand(64, 2) * 0.7
    particles = torch.stack((side - 0.5, side + 0.5), 1)
    targets = Targets(obs, particles, torch.full((64, 2), 0.5), 0 * side, 0 * side + 0.5)
    found = []
    for _ in range(300):
        adv = attack_states(learner, targets, config, 0.3)
        result = lagrangian(
            learner.policy, targets, adv, learner.beta, learner.beta_robust, config.mstep, VARIANTS[name]
        )
        learner.beta, learner.beta_robust = result.beta, result.beta_robust
        learner.policy_optimizer.zero_grad()
        result.loss.backward()
        learner.policy_optimizer.step()
        learner.advance(policy_steps=1)
        found.append(float(result.kl_robust[0]) / bound)
    return sum(found[-50:]) / 50


def test_the_kl_bound_under_attack_holds_where_it_is_on_and_not_where_it_is_off() -> None:
    assert robust_kl("safer") < 1.3
    assert robust_kl("safer-no-mle") < 1.3
    assert robust_kl("safer-no-kl") > 3


@pytest.mark.parametrize("name", [row.name for row in VARIANTS.values() if row.collects_under_attack])
def test_an_attacked_collection_has_to_be_allowed_each_time(folder: Path, name: str) -> None:
    words = [*SETTINGS, "--variant", name]
    assert ALLOW in harden("train", *words, code=2).output
    assert ALLOW in harden("collect", *SETTINGS, "--set", f"variant={name}", code=2).output
    assert ALLOW in harden("collect", *SETTINGS, "--behaviour", "mc", code=2).output
    assert not list(folder.iterdir())
    harden("train", *words, "--set", "train.env_steps=400", ALLOW)
    assert ALLOW in harden("train", *words, "--set", "train.env_steps=400", "--resume", code=2).output


def test_attacked_and_benign_transitions_are_never_mixed(folder: Path) -> None:
    collect = ["collect", *SETTINGS, "--episodes", "1"]
    harden(*collect, "--out", "benign")
    harden(*collect, "--out", "attacked", "--behaviour", "mc", ALLOW)
    manifests = [Path(name, "manifest.json").read_text() for name in ("benign", "attacked")]
    said = harden(*collect, "--out", "benign", "--behaviour", "mc", ALLOW, code=2).output
    assert "data set benign holds benign transitions, these are attacked ones (mc)" in said
    said = harden(*collect, "--out", "attacked", code=2).output
    assert "data set attacked holds attacked transitions, these are benign ones (policy-sample)" in said
    assert [Path(name, "manifest.json").read_text() for name in ("benign", "attacked")] == manifests
    fit = ["fit-critics", *SETTINGS, "--steps", "1", "--data"]
    assert "benign data only" in harden(*fit, "attacked", code=2).output
    said = harden(*fit, "benign", "--set", "variant=adv-cvpo", code=2).output
    assert "benign holds benign transitions; variant adv-cvpo learns from data collected under attack" in said
    assert not Path("checkpoints").exists()
    harden(*fit, "attacked", "--set", "variant=adv-cvpo")
    e_step = ["e-step", *SETTINGS, "--states", "24", "--data"]
    assert "benign data only" in harden(*e_step, "attacked", code=2).output
    harden(*e_step, "attacked", "--set", "variant=adv-cvpo")


@pytest.mark.parametrize("name", ["adv-cvpo"])
def test_an_interrupted_run_of_a_rival_resumes_to_the_same_end(folder: Path, name: str, monkeypatch) -> None:
    words = [*SETTINGS, "--variant", name, ALLOW]
    (folder / "whole").mkdir()
    monkeypatch.chdir(folder / "whole")
    harden("train", *words)
    monkeypatch.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        # the second refresh's roll-outs are stored, and nothing that was learned from them
        patch.setattr(DatasetWriter, "append", stop_after(DatasetWriter.append, 2))
        harden("train", *words, code=130)
    assert len(open_dataset(folder / "datasets/ball-circle").info.shards) == 2
    harden("train", *words, "--resume")
    assert_same_run(folder / "whole/checkpoints/ball-circle", folder / "checkpoints/ball-circle")
