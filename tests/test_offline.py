"""Training from stored data alone, and trying a policy on nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harden.config.file import load_config
from harden.config.pipeline import make_config
from harden.config.tasks import TASKS
from harden.data.dataset import DatasetWriter, open_dataset
from harden.envs.rollout import Acted, rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError, Interrupted
from harden.evaluation.reading import load_evaluation
from harden.evaluation.verdict import verdict
from harden.models.simulator import WorldEnv
from harden.models.world import Outcome, WorldModel
from harden.nets.saved import load_policy
from harden.training import loop
from harden.training.checks import require_ranges, unknown_from_logs
from harden.types import Transitions
from support.commands import SETTINGS, assert_same_run, harden, refused
from support.transitions import HOW, make

SHORT = [*SETTINGS, "--quiet"]
for key in (
    "offline.refreshes=3",
    "offline.world_steps=600",
    "offline.length=20",
    "world.hidden=[64]",
    "world.batch=256",
):
    SHORT += ["--set", key]
# what is learned in seconds is safe for nobody
SHORT += ["--set", "imitation.steps=40", "--set", "cost_limit=200", "--set", "offline.calibrated=1e6"]
TRAIN = ["train", "--offline", "--data", "logs", *SHORT]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real logs, in which offline training was done."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        harden("collect", *SHORT, "--episodes", "20", "--out", "logs")
        harden("collect", *SHORT, "--episodes", "3", "--out", "others", "--seed", "5")
        before = open_dataset(Path("logs")).info
        harden(*TRAIN)
        assert open_dataset(Path("logs")).info == before
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the working folder."""
    monkeypatch.chdir(made)
    return made


def test_nothing_is_simulated_and_the_run_says_so(folder: Path) -> None:
    run = Path("checkpoints/ball-circle")
    assert not Path("datasets").exists()
    about = load_policy(run / "policy").manifest
    assert about["offline"]["data"] == open_dataset(Path("logs")).info.digest
    assert about["offline"]["behaviour"]["held_out"]["action_error"] > 0
    assert 0 < about["offline"]["world"]["error"] < 0.9
    curve = (run / "learning_curve.csv").read_text().splitlines()
    assert len(curve) == 4
    # as many imagined steps as the same training simulates, as far as episodes of twenty go into them
    imagined = open_dataset(run / "imagined").info
    assert 3 * 2 * 200 - 3 * 20 < imagined.transitions <= 3 * 2 * 200


def test_status_does_not_miss_data_that_were_given(folder: Path) -> None:
    assert "learned from data given by --data" in harden("status", *SETTINGS).output


def test_a_policy_is_tried_in_the_logs_world_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = ["--attack", "random,mc", "--episodes", "3", "--attack-steps", "2", "--restarts", "1"]
    words = ["evaluate", *SHORT, *attack, "--imagined", "--data", "logs"]
    # no simulation is opened, or this would fail
    monkeypatch.setattr(VectorEnv, "__init__", None)
    said = harden(*words, "--json", "tried.json", "--html", "tried.html").output
    assert "simulation: none" in said
    assert Path("checkpoints/ball-circle/policy/independent/world.safetensors").is_file()
    tried = load_evaluation(Path("tried.json"))
    natural, *attacked = tried["results"]
    assert [entry["attack"] for entry in attacked] == ["random", "mc"]
    # each episode in another member of the ensemble
    assert len({episode["reward"] for episode in natural["per_episode"]}) == 3
    logs, world = open_dataset(Path("logs")).info, tried["world_model"]
    assert world["logged"] == pytest.approx({"reward": logs.mean_reward, "cost": logs.mean_cost})
    assert world["cost_rule"] == ""
    second = world["fitted_q"]
    for quantity in ("reward", "cost"):
        low, high = second[quantity]["ci95"]
        assert low <= second[quantity]["mean"] <= high
    assert f"by fitted Q evaluation of the logs: reward {second['reward']['mean']:.1f}" in said
    assert verdict(tried)["status"] != "holds"
    page = Path("tried.html").read_text()
    assert "Never simulated." in page
    assert f"by fitted Q evaluation of the logs: reward {second['reward']['mean']:.1f}" in page
    # the world is the one that was kept; of other logs it is another one
    kept = Path("checkpoints/ball-circle/policy/independent/world.safetensors").read_bytes()
    harden(*words, "--json", "again.json")
    again = load_evaluation(Path("again.json"))
    assert again["results"] == tried["results"]
    assert Path("checkpoints/ball-circle/policy/independent/world.safetensors").read_bytes() == kept
    assert "--data" in refused("evaluate", *SHORT, *attack, "--imagined")


def test_costs_by_a_rule_are_those_of_the_logs_the_model_and_the_attacks(folder: Path) -> None:
    bounds = "action_low = [-1.0, -1.0]\naction_high = [1.0, 1.0]"
    Path("ruled.toml").write_text(
        '[task]\nname = "ruled"\nhorizon = 200\ncost_limit = 5\nepsilon = 0.05\nobs_dim = 8\nact_dim = 2\n'
        f'cost = "0.25"\nmax_step_cost = 1.0\n{bounds}\n'
    )
    rows = open_dataset(Path("logs")).recent(10**6)
    config = load_config(Path("ruled.toml"))
    with DatasetWriter(Path("ruled-logs"), config.task_row) as writer:
        writer.append(rows._replace(costs=torch.zeros_like(rows.costs)), **HOW)
    run = "checkpoints/ball-circle/policy"
    harden("policy", "export", run, "--to", "safetensors", "--out", "own.safetensors")
    words = ["evaluate", *SHORT, "-p", "ruled.toml", "--policy", "own.safetensors"]
    more = ["--data", "ruled-logs", "--attack", "mc", "--episodes", "2", "--json", "ruled.json"]
    # nothing counts as unknown, or it would cost the most
    more += ["--attack-steps", "1", "--restarts", "1", "--set", "offline.lost=1e9"]
    # of a task without an environment there are only data: nobody has to say so
    said = harden(*words, *more).output
    tried, length = load_evaluation(Path("ruled.json")), len(rows.rewards) / 20
    assert "the rule 0.25" in said
    assert tried["world_model"]["cost_rule"] == "0.25"
    assert tried["world_model"]["logged"]["cost"] == pytest.approx(0.25 * length)
    for episode in tried["results"][0]["per_episode"]:
        assert episode["cost"] == pytest.approx(0.25 * episode["length"])
    # the critics that the attack climbs have learned from the same costs
    assert tried["threat_model"]["critics"]["cost_seen"] == pytest.approx(0.25 * length)


def test_the_report_says_that_episodes_are_the_first(folder: Path) -> None:
    attack = ["--attack", "random", "--episodes", "1", "--quiet", "--json", "simulated.json"]
    harden("evaluate", *SETTINGS, *attack)
    signed = ["--sign-off", "Ada <L>", "--for", "checkpoints/ball-circle/policy/policy.safetensors"]
    harden("report", "simulated.json", *signed, "--out", "after.html")
    page = Path("after.html").read_text()
    assert "these are its first simulated episodes" in page
    assert "Ada &lt;L&gt;" in page
    assert "Never simulated." not in page
    assert "nobody signs" in refused("report", "simulated.json", "--for", "simulated.json")
    assert "missing" in refused("report", "simulated.json", "--sign-off", "Ada", "--for", "nowhere")


def test_a_run_that_is_stopped_goes_on_to_the_same_end(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("logs").symlink_to(made / "logs")
    write, written = loop.write_curve, []

    def once(path: Path, history: list[dict[str, float]]) -> None:
        write(path, history)
        written.append(path)
        raise Interrupted("stopped by Ctrl-C")

    monkeypatch.setattr(loop, "write_curve", once)
    harden(*TRAIN, code=130)
    monkeypatch.setattr(loop, "write_curve", write)
    assert len(written) == 1
    # of the state alone: the policy's folder and the rest are made from it
    others = ("train", "--offline", "--data", str(made / "others"), "--resume", *SHORT)
    said = refused(*others)
    assert "other data" in said
    assert refused(*others, "--dry-run") == said
    said = refused(*TRAIN, "--resume", "--set", "imitation.held_out=0.2")
    assert "made with another 'imitation.held_out'" in said, "what was held out was not learned from"
    harden(*TRAIN, "--resume")
    assert_same_run(tmp_path / "checkpoints/ball-circle", made / "checkpoints/ball-circle")


@pytest.mark.parametrize(("cost", "said"), [(0, 1), (9, 1), (10, 0), (300, 0)])
def test_logs_that_hardly_violate_are_told(cost: int, said: int) -> None:
    rows = make([2, 2])._replace(costs=torch.tensor([cost / 2, 0.0] * 2))
    assert len(unknown_from_logs(make_config({"task": "ball-circle"}), rows)) == said


def test_a_given_policy_is_where_it_starts(folder: Path) -> None:
    (folder / "given.toml").write_text("")
    released = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
    harden(*TRAIN, "-p", "given.toml", "--init", str(released))
    about = load_policy("checkpoints/given/policy").manifest
    assert about["origin"]["policy_digest"] == load_policy(released).manifest["policy_digest"]
    assert about["policy"]["hidden"] == [128, 128]
    assert about["offline"]["data"] == open_dataset(Path("logs")).info.digest


def test_what_it_can_not_learn_from_is_refused(folder: Path) -> None:
    assert "harden collect" in refused("train", "--offline", "--data", "nowhere", *SHORT)
    assert "holds an earlier run" in refused(*TRAIN)
    for variant in ("ppol", "adv-cvpo", "safer"):
        assert "safer-model" in refused(*TRAIN, "--variant", variant, "--overwrite")
    assert "--offline" in refused("train", "--data", "logs", *SHORT)
    # what was refused discarded nothing
    assert Path("checkpoints/ball-circle/policy").is_dir()


@pytest.mark.parametrize(
    "words", [["train", "--offline"], ["fit-policy", "--clone", "--out", "new"], ["fit-critics"]]
)
def test_actions_that_the_task_does_not_allow_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = counted(Path("logs"), 8, 2)
    rows = open_dataset(data).read(0, 8)
    wide = rows._replace(actions=torch.tensor([[0.0, 5.0], [0.5, -3.0]]).repeat(4, 1))
    with DatasetWriter(Path("wide"), TASKS["ball-circle"]) as writer:
        writer.append(wide, seed=0, policy_digest="", behaviour="imported")
    said = refused(*words, "--data", "wide", *SHORT)
    assert "wide: action 1 goes from -3 to 5, task 'ball-circle' allows -1 to 1" in said
    assert "task.action_low" in said
    assert not list(Path().rglob("*.safetensors"))


@pytest.mark.parametrize(
    "words", [["train", "--offline"], ["fit-policy", "--clone", "--out", "new"], ["fit-critics"]]
)
def test_costs_above_the_tasks_highest_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = open_dataset(counted(Path("logs"), 8, 2)).read(0, 8)
    with DatasetWriter(Path("dear"), TASKS["ball-circle"]) as writer:
        dear = rows._replace(costs=torch.tensor([0.0, 100.0] * 4))
        writer.append(dear, seed=0, policy_digest="", behaviour="imported")
    said = refused(*words, "--data", "dear", *SHORT)
    assert "dear: a step costs up to 100, of task 'ball-circle' at most 1" in said
    assert "task.max_step_cost" in said
    assert not list(Path().rglob("*.safetensors"))


def test_actions_are_held_to_the_tasks_own_bounds_and_rounding_is_let_pass() -> None:
    own = {"name": "arm", "horizon": 2, "cost_limit": 1, "epsilon": 0.1, "obs_dim": 8, "act_dim": 2}
    config = make_config({"task": own | {"action_low": [-3.0, 0.0], "action_high": [5.0, 1.0]}})
    nothing = torch.zeros(2)

    def refuse(actions: torch.Tensor) -> None:
        columns = torch.zeros(2, 8), actions, nothing, nothing, torch.zeros(2, 8), nothing > 0, nothing > 0
        require_ranges(config, Transitions(*columns), Path("logs"))

    refuse(torch.tensor([[-3.007, 0.0], [5.007, 1.0009]]))
    with pytest.raises(InputError, match=r"action 1 goes from -0\.002 to 1, task 'arm' allows 0 to 1"):
        refuse(torch.tensor([[5.0, -0.002], [0.0, 1.0]]))


def test_the_pipelines_own_word_is_enough(folder: Path) -> None:
    Path("logged.toml").write_text("[train]\noffline = true\n")
    said = harden("train", "-p", "logged.toml", "--data", "logs", "--dry-run").output
    assert json.loads(said)["writes"] == ["checkpoints/logged"]


def test_a_world_model_that_expects_another_reward_than_the_logs_have_is_not_trained_in(folder: Path) -> None:
    (folder / "off.toml").write_text("")
    words = ["train", "--offline", "--data", "logs", "-p", "off.toml", *SHORT]
    said = refused(*words, "--set", "offline.calibrated=1e-9")
    assert "world model" in said
    assert f"{open_dataset(Path('logs')).info.mean_reward:.1f}" in said
    assert not Path("checkpoints/off").exists()


def test_logs_that_do_not_tell_what_an_action_does_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(Path("logs"))
    rows = dataset.recent(10**6)
    noise = torch.randn(rows.next_obs.shape, generator=torch.Generator().manual_seed(1))
    with DatasetWriter(Path("noise"), TASKS["ball-circle"]) as writer:
        noisy = rows._replace(next_obs=rows.obs + noise)
        writer.append(noisy, seed=0, policy_digest="", behaviour="imported")
    (folder / "noisy.toml").write_text("")
    words = ["train", "--offline", "--data", "noise", "-p", "noisy.toml", *SHORT]
    assert "world model" in refused(*words)
    assert not Path("checkpoints/noisy/policy").exists()


def test_a_policy_above_the_limit_in_the_world_model_is_not_published(folder: Path) -> None:
    Path("dear.toml").write_text("")
    words = [*TRAIN, "-p", "dear.toml", "--set", "cost_limit=0"]
    said = refused(*words)
    assert "no policy is published" in said
    run = Path("checkpoints/dear")
    assert (run / "state.safetensors").is_file()
    assert not (run / "policy").exists()
    # the run has ended so, and says it again
    assert refused(*words, "--resume") == said
    assert not (run / "policy").exists()


class Drifting(WorldModel):
    """Two members: in one a step moves by the action, in the other by twice that; far out they disagree."""

    def __init__(self) -> None:
        super().__init__(2, 2, 0.5, 2, (4,))
        self.reach.fill_(0.1)
        self.least_reward.fill_(-3.0)

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> Outcome:
        next_obs = torch.stack((obs + actions, obs + 2 * actions))
        rewards, costs = next_obs.sum(-1), torch.full((2, len(obs)), 0.25)
        return Outcome(next_obs, rewards, costs, torch.zeros(2, len(obs)), (obs[:, 0] > 0.9).float())


def drifting(slots: int, **options: Any) -> WorldEnv:
    task = TASKS["ball-circle"]._replace(obs_dim=2, act_dim=2, max_step_cost=0.5, horizon=3)
    return WorldEnv(Drifting(), task, torch.zeros(1, 2), slots, lost=4.0, **options)


def test_an_imagined_step_is_the_members_mean_or_one_of_them() -> None:
    actions = np.full((2, 2), 0.1, dtype=np.float32)
    for apart, expected in ((False, [0.15, 0.15]), (True, [0.1, 0.2])):
        envs = drifting(2, apart=apart)
        assert (envs.reset(np.arange(2), np.array([5, 6])) == 0).all()
        step = envs.step(np.arange(2), actions)
        np.testing.assert_allclose(step.obs[:, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(step.rewards, 2 * np.array(expected), rtol=1e-6)
        np.testing.assert_allclose(step.costs, 0.25)
        # the slots are apart: one may be stepped, or begin anew, without the other
        np.testing.assert_allclose(
            envs.step(np.array([1]), actions[:1]).obs, [[2 * expected[1]] * 2], rtol=1e-6
        )
        ends = [bool(envs.step(np.array([slot]), actions[:1]).timeouts[0]) for slot in (1, 0)]
        assert ends == [True, False]


def test_what_the_logs_do_not_show_is_the_worst_there_is() -> None:
    envs = drifting(1, branches=torch.ones(1, 2), branched=1.0)
    assert (envs.reset(np.arange(1), np.array([0])) == 1).all()
    step = envs.step(np.arange(1), np.full((1, 2), -0.5, dtype=np.float32))
    assert (step.obs == 1).all()
    assert (step.rewards, step.costs, step.terminals) == (-3.0, 0.5, False)


def test_imagined_episodes_depend_on_their_seed_alone() -> None:
    states = torch.arange(100.0)[:, None].expand(100, 2) / 1000
    starts = []
    for slots in (1, 3):
        envs = drifting(slots, branches=states, branched=0.8)
        run = rollout(envs, lambda obs, _: Acted(torch.zeros_like(obs), obs), list(range(40)))
        starts.append(run.transitions.obs[::3, 0])
    torch.testing.assert_close(starts[0], starts[1])
    assert 0.6 < float((starts[0] > 0).float().mean()) < 0.95


def counted(folder: Path, rows: int, length: int) -> Path:
    """Write a data set whose rewards count its rows."""
    index = torch.arange(rows)
    ends = (index + 1) % length == 0
    count = index.float()
    columns = count[:, None].expand(rows, 8), torch.zeros(rows, 2), count, torch.zeros(rows)
    data = Transitions(*columns, count[:, None].expand(rows, 8) + 1, torch.zeros_like(ends), ends)
    with DatasetWriter(folder, TASKS["ball-circle"]) as writer:
        for start in range(0, rows, rows // 2):
            part = Transitions(*(column[start : start + rows // 2] for column in data))
            writer.append(part, seed=0, policy_digest="", behaviour="random")
    return folder
