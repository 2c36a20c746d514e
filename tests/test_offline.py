"""Training from stored data alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harden.config.pipeline import PipelineConfig, make_config
from harden.config.tasks import TASKS
from harden.data import DatasetWriter, draw_rows, open_dataset
from harden.errors import InputError, Interrupted
from harden.method.adversary import mc_attack
from harden.method.bellman import Backups, backups
from harden.method.critic_step import beyond_support, td_targets
from harden.method.e_step import EStepStates, e_step, kl_bound
from harden.method.learner import Learner, new_learner
from harden.method.schedules import scheduled
from harden.nets import GaussianPolicy
from harden.nets.saved import load_policy
from harden.seeds import generator
from harden.training import loop
from harden.training.checks import require_ranges, unknown_from_logs
from harden.training.supply import Stored
from harden.types import Transitions
from support.commands import SETTINGS, assert_same_run, harden, refused
from support.transitions import HOW, TASK, make

CPU = torch.device("cpu")
SHORT = [*SETTINGS, "--set", "offline.refreshes=3", "--set", "imitation.steps=40", "--quiet"]
TRAIN = ["train", "--offline", "--data", "logs", *SHORT]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real logs, in which offline training was done."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        harden("collect", *SHORT, "--episodes", "4", "--out", "logs")
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
    account = json.loads((run / "offline.json").read_text())
    assert account["simulated"] is False
    logged = account["data"]["cost"]
    blind = any(f"the logs cost {logged:.1f} an episode" in one for one in account["not_simulated"])
    assert blind == (logged < account["cost_limit"])
    rows = {(row["policy"], row["attack"]): row for row in account["estimates"]}
    assert set(rows) == {(p, a) for p in ("cloned", "hardened") for a in ("natural", "mc")}
    # a clone's own mean lies at no distance from itself, and no attack moves what is not attacked
    assert rows["cloned", "natural"]["distance"] == 0
    assert rows["cloned", "natural"]["moved_by_attack"] == 0
    assert rows["hardened", "mc"]["moved_by_attack"] > 0
    assert all(0 <= row["outside_data"] <= 1 for row in account["estimates"])
    about = load_policy(run / "policy").manifest
    assert about["offline"]["data"] == open_dataset(Path("logs")).info.digest
    assert about["offline"]["behaviour"]["held_out"]["action_error"] > 0
    curve = (run / "learning_curve.csv").read_text().splitlines()
    assert len(curve) == 4
    assert "reward" not in curve[0]


def test_status_does_not_miss_data_that_were_given(folder: Path) -> None:
    assert "learned from data given by --data" in harden("status", *SHORT[:-1]).output


def test_the_report_marks_what_was_never_simulated(folder: Path) -> None:
    account = "checkpoints/ball-circle/offline.json"
    attack = ["--attack", "random", "--episodes", "1", "--quiet", "--json", "tried.json"]
    harden("evaluate", *SETTINGS, *attack)
    harden("report", account, "--out", "before.html")
    page = Path("before.html").read_text()
    assert "Never simulated." in page
    assert "whether the cost limit holds" in page
    signed = ["--sign-off", "Ada <L>", "--for", "checkpoints/ball-circle/policy/policy.safetensors"]
    harden("report", account, "tried.json", *signed, "--out", "after.html")
    page = Path("after.html").read_text()
    assert "these are its first simulated episodes" in page
    assert "Ada &lt;L&gt;" in page
    assert page.count("Never simulated.") == 1
    assert "nobody signs" in refused("report", account, "--for", "tried.json")
    assert "missing" in refused("report", account, "--sign-off", "Ada", "--for", "nowhere")


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
def test_logs_that_hardly_violate_are_told(cost: int, said: int, tmp_path: Path) -> None:
    config = make_config({"task": "ball-circle"})
    rows = make([2, 2])._replace(costs=torch.tensor([cost / 2, 0.0] * 2))
    with DatasetWriter(tmp_path / "logs", TASK) as writer:
        writer.append(rows, **HOW)
    assert len(unknown_from_logs(config, open_dataset(tmp_path / "logs"))) == said


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
    assert "on-policy" in refused(*TRAIN, "--variant", "ppol", "--overwrite")
    assert "benign" in refused(*TRAIN, "--variant", "adv-cvpo", "--overwrite")
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


def offline_learner(behaviour_mean: float, **keys: float) -> tuple[PipelineConfig, Learner]:
    """Return a learner whose behaviour is a constant Gaussian, far from its own policy."""
    config = make_config(
        {
            "estep": {"particles": 64, "lam_max": 5.0},
            "offline": {"kl_bound": 0.3} | keys,
            "critics": {"batch": 8, "scale_rewards": False},
        }
    )
    learner = new_learner(config, CPU)
    behaviour = GaussianPolicy(8, 2, (4,), init_std=0.2)
    with torch.no_grad():
        behaviour.mean_head.weight.zero_()
        behaviour.mean_head.bias.fill_(torch.tensor(behaviour_mean).atanh())
        behaviour.std_head.weight.zero_()
    return config, Learner(learner.policy, learner.critics, config, CPU, behaviour=behaviour)


def test_the_e_step_stays_among_the_datas_actions() -> None:
    config, learner = offline_learner(0.6)
    obs = torch.randn(40, 8)
    targets, solution, _ = e_step(
        learner, EStepStates.clean(obs), config, scheduled(config, 0)._replace(kappa=1e6, lam_max=5.0)
    )
    assert (targets.actions.mean((0, 1)) - 0.6).abs().max() < 0.02
    assert (targets.actions.std((0, 1)) - 0.2).abs().max() < 0.02
    # what the M-step may move is measured from the policy, not from the behaviour
    mean, std = learner.policy(obs)
    torch.testing.assert_close(targets.old_mean, mean.detach())
    torch.testing.assert_close(targets.old_std, std.detach())
    # KL(q* || behaviour), from the particles: sum_k w log(w K), on average over states
    weights = targets.weights.double()
    divergence = (weights * (weights * 64).clamp_min(1e-30).log()).sum(1).mean()
    assert float(divergence) == pytest.approx(0.3, abs=1e-3)
    assert kl_bound(new_learner(config, CPU), config, scheduled(config, 0)) == config.estep.kl_bound == 0.1
    assert bool(solution.feasible)


def test_distance_beyond_the_support_by_hand() -> None:
    _, learner = offline_learner(0.6)
    assert learner.behaviour is not None
    actions = torch.tensor([[0.6, 0.6], [0.9, 0.6], [1.0, 0.6], [1.0, 0.0]])
    far = beyond_support(learner.behaviour, torch.randn(4, 8), actions, 1.5)
    # of a spread of 0.2: 0, 1.5, 2 and 2 beside 3
    torch.testing.assert_close(far, torch.tensor([0.0, 0.0, 0.25, 0.25 + 2.25]), atol=1e-4, rtol=1e-4)


def test_the_cost_of_leaving_the_data_enters_the_target() -> None:
    _, plain = offline_learner(0.9)
    config, learner = offline_learner(0.9, pessimism=0.5)
    ahead = torch.zeros(8), torch.randn(8, 8), torch.full((8,), 0.9)
    batch = Backups(torch.randn(8, 8), torch.rand(8, 2), torch.rand(8), *ahead[1:], *ahead, *ahead)
    free = make_config(config.model_dump() | {"offline": config.offline.model_dump() | {"pessimism": 0.0}})
    without, with_it = td_targets(plain, batch, free, 0.0), td_targets(learner, batch, config, 0.0)
    # the policy's actions are around 0, four spreads from the data
    assert (with_it[1] > without[1] + 0.2).all()
    torch.testing.assert_close(with_it[0], without[0])


def test_it_enters_the_target_under_attack_as_well() -> None:
    """By a share of the squared distance of the action that the attacked policy takes, at the clean state."""
    config, learner = offline_learner(0.9, pessimism=0.01)
    behaviour = learner.behaviour
    assert behaviour is not None
    with torch.no_grad():
        behaviour.mean_head.weight.normal_()
    ahead = torch.zeros(8), torch.randn(8, 8), torch.full((8,), 0.9)
    batch = Backups(torch.randn(8, 8), torch.rand(8, 2), torch.rand(8), *ahead[1:], *ahead, *ahead)
    steps = {"epsilon": 0.5, "steps": 5}
    config = make_config(config.model_dump() | {"adversary": config.adversary.model_dump() | steps})
    free = make_config(config.model_dump() | {"offline": config.offline.model_dump() | {"pessimism": 0.0}})
    radius, policy = config.task_row.radius(0.5), learner.policy
    draw = generator(CPU, learner.seed, "td", 0)
    policy.sample(batch.next_obs, draw)
    given = mc_attack(policy, learner.target_critics, batch.step_next_obs, radius, config.adversary, draw)
    with torch.no_grad():
        far = beyond_support(behaviour, batch.step_next_obs, policy.mean(given), config.offline.support)
        cost = learner.target_critics.q_cost(batch.step_next_obs, policy.mean(given))
    assert float(far.min()) > 0
    targets = [td_targets(learner, batch, settings, 0.5).costs for settings in (free, config)]
    for found, share in zip(targets, (0.0, 0.01), strict=True):
        torch.testing.assert_close(found, (0.9 * (cost + share * far)).clamp(min=0))


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


def test_what_is_larger_than_memory_is_read_in_part(tmp_path: Path) -> None:
    dataset = open_dataset(counted(tmp_path / "set", 6000, 200))
    everything = draw_rows(dataset, 6000, torch.Generator())
    torch.testing.assert_close(everything.rewards, torch.arange(6000.0))
    seen = set()
    for seed in range(6):
        part = draw_rows(dataset, 2000, torch.Generator().manual_seed(seed))
        assert len(part.rewards) == 2000
        torch.testing.assert_close(part.next_obs[:, 0], part.rewards + 1)
        seen |= set(part.rewards.tolist())
        ahead = backups(part, (1.0, 3), (1.0, 3))
        # no return runs over the gap between two stretches
        inner = ahead.discounts.new_tensor([1.0]) * (ahead.next_obs[:, 0] - part.rewards)
        torch.testing.assert_close(ahead.rewards, part.rewards * inner + inner * (inner - 1) / 2)
    assert len(seen) > 4000


def test_each_refresh_reads_another_part(tmp_path: Path) -> None:
    dataset = open_dataset(counted(tmp_path / "set", 6000, 200))
    config = make_config({"offline": {"rows": 1000}, "train": {"offline": True}})
    learner = new_learner(config, CPU)
    supply = Stored(config, learner, dataset)
    parts = []
    for refresh in (*range(6), 0):
        learner.counters = learner.counters._replace(refresh=refresh)
        supply.gather([])
        parts.append(supply.load().states[:, 0])
    assert len(parts[0]) == 1000
    # of six stretches: not the same one each time, and the same one in the same place of a run
    assert len({float(part[0]) for part in parts}) > 1
    torch.testing.assert_close(parts[0], parts[6])
