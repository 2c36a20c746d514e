"""The stages through the command line on real simulation: composition, resumption, status."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from harden.config.attacks import parse_attacks
from harden.config.file import find_pipeline, load_config
from harden.config.tasks import TASKS
from harden.data.dataset import open_dataset
from harden.data.targets import read_targets
from harden.method.learner import Learner
from harden.stages.collect import collect
from harden.stages.e_step import e_step
from harden.stages.fit_critics import fit_critics
from harden.stages.fit_policy import fit_policy
from harden.training.loop import write_curve
from harden.training.state import load_state
from harden.training.workspace import Workspace, pick_device
from support.commands import SETTINGS, SMALL, assert_same_run, harden, stages, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run went to its end undisturbed."""
    path = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        harden("train", "--threads", "1", *SETTINGS)
    return path


@pytest.fixture
def trained(whole: Path, folder: Path) -> Path:
    """A working folder with a copy of that run."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize(
    "variant", ["safer", "safer-long", "safer-model", "cvpo-random", "adv-cvpo", "adv-em-cvpo"]
)
def test_train_is_the_stages_by_hand_to_the_bit(folder: Path, variant: str) -> None:
    common = [*SETTINGS, "--set", f"variant={variant}", "--quiet"]
    allow = "--allow-attacked-collection"
    harden("train", *common, allow)
    config = load_config(find_pipeline(Path("ball-circle")), [w for w in common if "=" in w])
    place = Workspace.named("by-hand")
    for refresh in range(3):
        at: dict[str, Any] = {"refresh": refresh}
        collect(config, place, episodes=2, allow_attacked_collection=True, **at).work()
        if refresh == 0:
            fit_critics(config, place, steps=3, **at).work()
        for _ in range(2):
            fit_critics(config, place, steps=2, **at).work()
            e_step(config, place, states=24, particles=4, **at).work()
            fit_policy(config, place, steps=3, **at).work()
    # training ends with critics of the policy that it publishes, as a stage by hand fits them
    fit_critics(config, place, steps=3).work()
    runs = folder / "checkpoints"
    assert_same_run(runs / "ball-circle", runs / "by-hand")
    first = open_dataset(folder / "datasets/ball-circle")
    assert first.info.digest == open_dataset(folder / "datasets/by-hand").info.digest
    manifest = json.loads((runs / "by-hand/policy/manifest.json").read_text())
    assert (
        manifest["policy_digest"]
        == json.loads((runs / "ball-circle/policy/manifest.json").read_text())["policy_digest"]
    )


def test_nothing_is_learned_ahead_of_its_time(folder: Path) -> None:
    """Each E-step sees the policy of the M-step before it: no batch may be fetched in advance."""
    from harden.stages.train import train
    from harden.training import loop

    config = load_config(find_pipeline(Path("ball-circle")), [f"{k}={v}" for k, v in SMALL.items()])
    order: list[str] = []
    plain_estep, plain_step = loop.e_step, loop.RobustMStep.training_step

    def e_step(*args: object, **kwargs: object) -> object:
        order.append("E")
        return plain_estep(*args, **kwargs)  # type: ignore[arg-type]

    def training_step(self: object, *args: object) -> object:
        order.append("M")
        return plain_step(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "e_step", e_step)
        patch.setattr(loop.RobustMStep, "training_step", training_step)
        train(config, Workspace.named("run")).work()
    assert "".join(order) == "EMMM" * 6


def kill_when(command: list[str], cwd: Path, ready: str) -> None:
    """Start a command and kill -9 it as soon as a file's pattern appears."""
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while process.poll() is None and not list(cwd.glob(ready)) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cwd.glob(ready)), "the command never got that far"


@pytest.mark.parametrize(
    "ready",
    [
        "datasets/ball-circle/shard-00000.h5",
        "checkpoints/ball-circle/targets.h5",
        "datasets/ball-circle/shard-00002.h5",
    ],
)
def test_a_killed_run_resumes_to_the_same_end(whole: Path, folder: Path, ready: str) -> None:
    command = [sys.executable, "-m", "harden", "train", "--threads", "1", *SETTINGS]
    kill_when(command, folder, ready)
    harden("train", "--threads", "1", *SETTINGS, "--resume")
    assert_same_run(whole / "checkpoints/ball-circle", folder / "checkpoints/ball-circle")
    assert open_dataset(folder / "datasets/ball-circle").verify() == []
    curve = (folder / "checkpoints/ball-circle/learning_curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in curve] == ["refresh", "1", "2", "3"]


def test_a_run_is_not_overwritten_by_accident_nor_resumed_as_another(trained: Path) -> None:
    before = weights(trained / "checkpoints/ball-circle")
    assert "--resume" in harden("train", *SETTINGS, code=2).output
    other = harden("train", *SETTINGS, "--set", "mstep.kl_mean=0.5", "--resume", code=2).output
    assert "mstep.kl_mean" in other
    after = weights(trained / "checkpoints/ball-circle")
    assert all(torch.equal(before[name], after[name]) for name in before)
    harden("train", *SETTINGS, "--resume")
    harden("train", *SETTINGS, "--set", "mstep.kl_mean=0.5", "--overwrite")


def test_train_starts_from_a_given_policy(trained: Path) -> None:
    given = Path("checkpoints/ball-circle/policy").rename(trained / "given")
    (trained / "next.toml").write_text('task = "ball-circle"\n')
    still = ["--set", "mstep.learning_rate=1e-9", "--set", "mstep.learning_rate_end=1e-9"]
    harden("train", "-p", "next.toml", *SETTINGS, "--init", str(given), *still)
    from harden.nets.saved import load_policy

    obs = torch.randn(20, 8)
    first, second = load_policy(given), load_policy(trained / "checkpoints/next/policy")
    torch.testing.assert_close(first.policy.mean(obs), second.policy.mean(obs), atol=1e-5, rtol=0)


def test_a_pipeline_is_found_by_its_name(folder: Path) -> None:
    """As the remedy of a missing input names it."""
    (folder / "mine.toml").write_text("")
    (folder / "pipelines").mkdir()
    (folder / "pipelines/other.toml").write_text("")
    for path in ("mine.toml", "pipelines/other.toml"):
        said = harden("e-step", "-p", path, *SETTINGS, code=2).output
        assert f"harden fit-critics -p {Path(path).stem}" in said
        assert harden("e-step", "-p", Path(path).stem, *SETTINGS, code=2).output == said
    assert "pipeline nothing is missing" in harden("e-step", "-p", "nothing", code=2).output


def test_after_training_every_stage_is_done_and_can_be_gone_on_from(trained: Path) -> None:
    harden("evaluate", *SETTINGS, "--episodes", "1", "--attack", "", "--json", "mine.json")
    assert set(stages(harden("status", *SETTINGS).output).values()) == {"done"}
    assert Path("mine.json").read_text() == Path("checkpoints/ball-circle/evaluation.json").read_text()
    targets, header = read_targets(Path("checkpoints/ball-circle/targets.h5"))
    assert targets.actions.shape == (24, 4, 2)
    assert header.round == 5
    harden("fit-policy", *SETTINGS, "--steps", "1")
    harden("collect", *SETTINGS, "--episodes", "1")
    after = stages(harden("status", *SETTINGS).output)
    assert (after["fit-critics"], after["e-step"], after["fit-policy"]) == ("stale", "stale", "stale")


def test_status_says_done_stale_or_missing_and_why(folder: Path) -> None:
    assert set(stages(harden("status", *SETTINGS).output).values()) == {"missing"}
    harden("collect", *SETTINGS, "--episodes", "2")
    harden("fit-critics", *SETTINGS, "--steps", "2")
    harden("e-step", *SETTINGS, "--states", "50")
    harden("fit-policy", *SETTINGS, "--steps", "2")
    harden("evaluate", *SETTINGS, "--episodes", "1", "--attack", "random")
    assert set(stages(harden("status", *SETTINGS).output).values()) == {"done"}
    changed = harden("status", *SETTINGS, "--set", "critics.gamma_cost=0.9").output
    assert stages(changed)["fit-critics"] == "stale"
    assert re.search(r"fit-critics +stale +'critics' in the pipeline changed", changed)
    every = {"fit-critics", "e-step", "fit-policy"}
    for key, wanted in (
        ("estep.lam_max=4", {"e-step"}),
        ("estep.limit_end=4", {"e-step"}),
        ("estep.particles=5", {"e-step"}),
        ("mstep.beta_max=9", {"fit-policy"}),
        ("cost_limit=4", every),
        # Q_c's future is attacked, and the ceiling of lam rises with epsilon
        ("adversary.steps=3", every),
        ("ppo.clip=0.3", set[str]()),
        ("offline.length=20", set[str]()),
    ):
        after = stages(harden("status", *SETTINGS, "--set", key).output)
        assert {stage for stage, found in after.items() if found == "stale"} == wanted, key
    harden("collect", *SETTINGS, "--episodes", "1")
    after = stages(harden("status", *SETTINGS).output)
    assert after["collect"] == "done"
    assert after["fit-critics"] == after["e-step"] == after["fit-policy"] == "stale"
    harden("fit-critics", *SETTINGS, "--steps", "2")
    after = stages(harden("status", *SETTINGS).output)
    assert after["fit-critics"] == "done"
    assert after["e-step"] == after["fit-policy"] == "stale", "its targets are of the critics before"
    harden("e-step", *SETTINGS, "--states", "50")
    said = harden("status", *SETTINGS).output
    assert stages(said)["e-step"] == "done"
    assert re.search(r"fit-policy +stale +it was fitted to other targets", said)
    harden("fit-policy", *SETTINGS, "--steps", "2")
    after = stages(harden("status", *SETTINGS).output)
    assert after["e-step"] == after["fit-policy"] == "done"


def test_a_policy_that_was_fitted_to_no_targets_is_not_done(folder: Path) -> None:
    harden("collect", *SETTINGS, "--episodes", "2")
    harden("fit-critics", *SETTINGS, "--steps", "2")
    said = harden("status", *SETTINGS).output
    assert re.search(r"fit-policy +missing +.*it was fitted to no targets yet", said)
    harden("e-step", *SETTINGS, "--states", "50")
    harden("fit-policy", *SETTINGS, "--steps", "1")
    Path("checkpoints/ball-circle/targets.h5").unlink()
    harden("fit-critics", *SETTINGS, "--steps", "2")
    said = harden("status", *SETTINGS).output
    assert re.search(r"fit-policy +stale +the targets that it was fitted to are not in", said)


def test_a_clone_is_a_fitted_policy(folder: Path) -> None:
    harden("collect", *SETTINGS, "--episodes", "3")
    words = ["--set", "imitation.steps=2", "--out", "checkpoints/ball-circle/policy"]
    harden("fit-policy", *SETTINGS, "--clone", *words)
    assert stages(harden("status", *SETTINGS).output)["fit-policy"] == "done"


def test_status_takes_the_variant_as_train_does(folder: Path) -> None:
    harden("train", *SETTINGS, "--variant", "ppol", "--set", "train.env_steps=400")
    after = stages(harden("status", *SETTINGS, "--variant", "ppol").output)
    done = dict.fromkeys(("run", "collect", "fit-critics", "fit-policy"), "done")
    assert after == done | {"evaluate": "missing"}
    said = harden("status", *SETTINGS).output
    for stage in ("fit-critics", "fit-policy"):
        why = r"'variant' in the pipeline changed since \(ppol, here safer-model\)"
        assert re.search(rf"{stage} +stale +{why}", said), stage


def test_equal_seeds_give_equal_data_whatever_the_workers(folder: Path) -> None:
    digests = []
    for workers in (0, 1, 2):
        out = str(folder / f"w{workers}")
        harden("collect", *SETTINGS, "--set", f"collect.workers={workers}", "--episodes", "3", "--out", out)
        digests.append(open_dataset(Path(out)).info.digest)
    assert len(set(digests)) == 1
    harden("collect", *SETTINGS, "--seed", "5", "--episodes", "3", "--out", str(folder / "other"))
    assert open_dataset(folder / "other").info.digest != digests[0]


@pytest.mark.parametrize("behaviour", ["random", "policy-mean", "policy-sample", "policy-noise"])
def test_behaviours_say_what_they_are(folder: Path, behaviour: str) -> None:
    harden("collect", *SETTINGS, "--episodes", "1", "--behaviour", behaviour)
    dataset = open_dataset(folder / "datasets/ball-circle")
    assert dataset.info.shards[0].behaviour == behaviour
    data = dataset.read(0, 200)
    moved = (data.obs[1:] - data.next_obs[:-1]).abs().max()
    assert (float(moved) > 0) == (behaviour == "policy-noise"), "only noise stores what the policy was given"
    assert float(moved) <= 0.05 * 1.0001


def test_evaluation_is_as_designed_and_repeats(trained: Path) -> None:
    words = ["evaluate", *SETTINGS, "--episodes", "2", "--attack-steps", "2", "--restarts", "1"]
    harden(*words, "--attack", "all", "--json", "a.json")
    # two more processes, and fewer attacks beside each: neither changes an entry
    some = "random,mc,mc-independent"
    harden(*words, "--attack", some, "--json", "b.json", "--set", "collect.workers=2")
    first, second = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert [entry["attack"] for entry in first["results"]] == parse_attacks("all")
    assert second["results"] == [
        entry for entry in first["results"] if entry["attack"] in f"natural,{some}".split(",")
    ]
    natural, random, _, mc, *_, combined, worst = first["results"]
    assert (natural["epsilon"], natural["style"], natural["critics"]) == (0.0, None, None)
    assert (mc["epsilon"], mc["steps"], mc["restarts"], mc["critics"]) == (0.05, 2, 1, "own")
    assert random["steps"] == 0
    assert (combined["queries"], combined["critics"]) == (5, "own")
    by_name = {entry["attack"]: entry for entry in first["results"]}
    assert by_name["mc-independent"]["critics"] == "independent"
    assert by_name["mc-independent"]["reward"] != mc["reward"]
    assert worst["over"] == [entry["attack"] for entry in first["results"][:-1]]
    for index, episode in enumerate(worst["per_episode"]):
        costs = {name: by_name[name]["per_episode"][index]["cost"] for name in worst["over"]}
        assert episode["cost"] == costs[episode["attack"]] == max(costs.values())
    increase = [m["cost"] - n["cost"] for m, n in zip(mc["per_episode"], natural["per_episode"], strict=True)]
    assert mc["over_natural"]["cost"]["mean"] == pytest.approx(sum(increase) / 2)
    assert {one["check"] for one in first["warnings"]} >= {"too-few-episodes"}
    ratio = first["threat_model"]["epsilon_over_std"][0]["ratio"]
    # the run's own data, not only where its policy goes
    assert ratio[0] * first["threat_model"]["data"]["observation_std"][0] == pytest.approx(0.05)
    for key in ("task", "env_id", "policy", "seed", "episodes", "cost_limit", "action"):
        assert key in first
    costs = [episode["cost"] for episode in mc["per_episode"]]
    assert mc["cost"]["mean"] == pytest.approx(sum(costs) / 2)
    assert mc["violation_rate"] == pytest.approx(sum(cost > 5 for cost in costs) / 2)
    seeds = [[episode["seed"] for episode in entry["per_episode"]] for entry in first["results"]]
    assert all(row == seeds[0] for row in seeds)

    harden(*words, "--json", "c.json", "--attack-style", "paper", "--attack", "mc")
    paper = json.loads(Path("c.json").read_text())["results"][1]
    assert (paper["style"], paper["steps"], paper["restarts"], paper["stop_value"]) == ("paper", 2, 1, 1e-4)
    assert paper["reward"] != mc["reward"]


def test_several_values_make_a_curve_in_which_nothing_is_tried_twice(trained: Path) -> None:
    words = ["evaluate", *SETTINGS, "--episodes", "2", "--attack", "random,mc,worst", "--json", "a.json"]
    curve = ["--epsilon", "0,0.02,0.05", "--attack-steps", "1,2", "--restarts", "1"]
    said = json.loads(harden(*words, *curve, "--dry-run").output)
    assert [one["evaluate"]["epsilon"] for one in said["also"]] == [0.0, 0.02, 0.02, 0.05, 0.05]
    assert not Path("a.json").exists()
    harden(*words, *curve)
    evaluation = json.loads(Path("a.json").read_text())
    results = evaluation["results"]
    assert evaluation["config"]["step_share"] == next(one for one in results if one["steps"])["step_share"]
    found = [(one["attack"], one["epsilon"], one["steps"]) for one in results]
    assert found[0] == ("natural", 0.0, 0)
    assert len(set(found)) == len(found)
    for epsilon in (0.0, 0.02, 0.05):
        for attack, steps in (("random", 0), ("mc", 1), ("mc", 2), ("worst", 1), ("worst", 2)):
            assert (attack, epsilon, steps) in found
    assert len(found) == 1 + 3 * 5
    natural, at_zero = results[0], next(one for one in results if one["attack"] == "mc")
    assert at_zero["per_episode"] == natural["per_episode"]
    alone = json.loads(harden_json(words, "--epsilon", "0.02", "--attack-steps", "2", "--restarts", "1"))
    same = next(one for one in results if (one["attack"], one["epsilon"], one["steps"]) == ("mc", 0.02, 2))
    assert alone["results"][2] == same, "an entry does not depend on those beside it"


def harden_json(words: list[str], *more: str) -> str:
    """Run an evaluation that writes a.json and return its text."""
    harden(*words, *more)
    return Path("a.json").read_text()


def test_independent_critics_are_fitted_once_and_owe_the_policys_own_nothing(trained: Path) -> None:
    words = ["evaluate", *SETTINGS, "--episodes", "1", "--attack", "mc-independent", "--attack-steps", "1"]
    kept = trained / "checkpoints/ball-circle/policy/independent"
    words += ["--json", "a.json"]
    first = json.loads(harden_json(words))
    (model,) = kept.glob("*/critics.safetensors")
    written = model.stat().st_mtime_ns
    again = json.loads(harden_json(words))
    assert model.stat().st_mtime_ns == written, "a second call does not refit"
    assert again["results"] == first["results"]
    elsewhere = json.loads(harden_json(words, "--independent", "elsewhere"))
    assert elsewhere["results"] == first["results"], "equal seeds give equal numbers"
    digests = [one["independent_critics"]["digest"] for one in (first, elsewhere)]
    assert digests[0] == digests[1] != first["policy"]["critics_digest"]
    longer = json.loads(harden_json(words, "--set", "evaluate.independent_steps=4"))
    assert longer["independent_critics"]["digest"] != digests[0]
    assert len(list(kept.glob("*/critics.safetensors"))) == 2
    other = json.loads(harden_json(words, "--seed", "1"))
    assert other["independent_critics"]["digest"] not in digests
    # what the fit began with is not what training began with
    own = weights(trained / "checkpoints/ball-circle")
    from harden.nets.saved import load_critics

    rival = load_critics(model.parent)[0].state_dict()
    assert all(
        (value - own[f"critics.{name}"]).abs().mean() > 0.01
        for name, value in rival.items()
        if "weights" in name
    )
    model.write_bytes(model.read_bytes()[:-1])
    assert "critics.safetensors does not have the digest" in harden(*words, code=2).output


def logged(path: Path) -> list[dict[str, str]]:
    """Return the rows of a job's CSV log."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_that_an_older_program_began_keeps_its_curve_when_it_goes_on(tmp_path: Path) -> None:
    history = [{"refresh": 1.0, "reward": 3.5}, {"refresh": 2.0, "reward": 4.5, "adversary_share": 0.9}]
    write_curve(tmp_path / "curve.csv", history)
    assert (tmp_path / "curve.csv").read_text() == "refresh,reward,adversary_share\n1,3.5,nan\n2,4.5,0.9\n"


def test_fit_policy_logs_its_steps_to_csv_and_a_second_fit_keeps_the_first_ones_log(folder: Path) -> None:
    logs = folder / "checkpoints/ball-circle/logs"
    harden("collect", *SETTINGS, "--episodes", "2")
    harden("fit-critics", *SETTINGS, "--steps", "2")
    harden("e-step", *SETTINGS, "--states", "24")
    harden("fit-policy", *SETTINGS, "--steps", "60")
    harden("fit-policy", *SETTINGS, "--steps", "1")
    assert [row["step"] for row in logged(logs / "policy-0000060/metrics.csv")] == ["61"]
    policy = logged(logs / "policy-0000000/metrics.csv")
    assert [row["step"] for row in policy] == ["1", "51"]
    expected = {"loss", "likelihood", "kl_mean", "kl_robust_mean", "beta_mean", "eta", "lam"}
    assert expected <= policy[0].keys()
    assert float(policy[1]["kl_mean"]) > 0


def test_tensorboard_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = folder / "checkpoints/ball-circle/logs"
    trained = harden("train", *SETTINGS, "--tensorboard")
    (events,) = logs.glob("train/events*")
    fitted = harden("fit-policy", *SETTINGS, "--steps", "2", "--tensorboard")
    (more,) = logs.glob("policy-*/tensorboard/events*")
    for said, file in ((trained, events), (fitted, more)):
        assert "--logdir checkpoints/ball-circle/logs" in said.output
        # of the table of runs: what each was set to
        assert b"_hparams_/session_start_info" in file.read_bytes()
        assert b"train/env_steps" in file.read_bytes()
    monkeypatch.setattr("harden.training.trainer.find_spec", lambda name: None)
    for words in (["fit-policy"], ["train", "--overwrite"]):
        said = harden(words[0], *SETTINGS, *words[1:], "--tensorboard", code=2).output
        assert "pip install 'harden[tensorboard]'" in said
    assert len(list(logs.glob("train/events*"))) == 1, "the earlier run stands"


def load_state_of(name: str) -> Learner:
    """Return the learner of a run."""
    from harden.config.pipeline import make_config

    path = Workspace.named(name).state
    return load_state(path, make_config({}), pick_device("cpu"))[0]


def test_the_state_holds_what_outlives_a_round(trained: Path) -> None:
    from harden.storage.tensor_file import read_tensors

    learner = load_state_of("ball-circle")
    _, about = read_tensors(Workspace.named("ball-circle").state, "")
    assert learner.counters == (2, 6, 18, 18, 6)
    assert learner.dual is not None
    assert learner.policy_optimizer.state_dict()["state"][0]["step"] == 18
    assert len(about["history"]) == 3


@pytest.mark.parametrize(("kind", "steps"), [("own", 3), ("none", 7), ("other", 7)])
def test_a_given_policy_without_critics_to_go_on_from_gets_a_longer_warm_up(
    trained: Path, kind: str, steps: int
) -> None:
    from harden.nets import Critics
    from harden.nets.saved import load_policy, save_policy

    loaded = load_policy("checkpoints/ball-circle/policy")
    brought = {"own": loaded.critics, "none": None, "other": Critics(8, 2, hidden=(5,))}
    save_policy(trained / "given", loaded.policy, brought[kind], {})
    words = ["-p", "next.toml", "--init", "given", "--set", "critics.steps=7", "--set", "train.env_steps=400"]
    (trained / "next.toml").write_text("")
    harden("train", *SETTINGS, *words)
    of_rounds, at_the_end = 2 * 2, 3
    assert load_state_of("next").counters.critic_steps == steps + of_rounds + at_the_end


def test_a_policy_that_does_not_fit_costs_nothing_that_is_stored(trained: Path) -> None:
    before = weights(trained / "checkpoints/ball-circle")
    (trained / "ball-circle.toml").write_text('task = "ant-run"\n')
    policy = "checkpoints/ball-circle/policy"
    said = harden("train", "-p", "ball-circle.toml", "--init", policy, "--overwrite", code=2).output
    assert "take a policy of that task" in said
    assert weights(trained / "checkpoints/ball-circle").keys() == before.keys()


@pytest.mark.parametrize("task", [name for name in TASKS if name != "ball-circle"])
def test_every_task_goes_through_the_whole_pipeline(folder: Path, task: str) -> None:
    """Other sizes, horizons, and episodes that the dynamics end."""
    words = ["-p", "task.toml", *SETTINGS, "--set", "train.env_steps=900", "--quiet"]
    (folder / "task.toml").write_text(f'task = "{task}"\n')
    harden("train", *words)
    info = open_dataset(folder / "datasets/task", TASKS[task]).info
    assert info.episodes >= 4
    few = ["--episodes", "2", "--attack-steps", "1", "--restarts", "1"]
    harden("evaluate", *words, "--attack", "mc,mad,black-box", *few)
    results = json.loads((folder / "checkpoints/task/evaluation.json").read_text())["results"]
    lengths = [episode["length"] for entry in results for episode in entry["per_episode"]]
    assert len(lengths) == 2 * 4
    assert max(lengths) <= TASKS[task].horizon


def test_python_does_what_the_commands_do(trained: Path) -> None:
    import harden as package
    from harden.config.file import find_pipeline, load_config

    config = load_config(find_pipeline(Path("ball-circle")), [f"{k}={v}" for k, v in SMALL.items()])
    done = package.train(config, "mine", trained)
    assert_same_run(trained / "checkpoints/mine", trained / "checkpoints/ball-circle")
    policy = package.load_policy(done.policy)
    assert policy.act([0.0] * 8).shape == (2,)
    assert policy.act(torch.zeros(5, 8)).shape == (5, 2)
    result = package.evaluate(done.policy, "mc", episodes=1, attack_steps=1, restarts=1, epsilon=[0.01, 0.05])
    assert [(one["attack"], one["epsilon"]) for one in result["results"]] == [
        ("natural", 0.0),
        ("mc", 0.01),
        ("mc", 0.05),
    ]
