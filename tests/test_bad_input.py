"""A user's mistake is one clear line and exit code 2, and nothing stored is harmed."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from harden.data.dataset import open_dataset
from harden.method.learner import Learner
from support.commands import SETTINGS, harden, refused, weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage has run once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        harden("collect", *SETTINGS, "--episodes", "2")
        harden("fit-critics", *SETTINGS, "--steps", "2")
        harden("e-step", *SETTINGS, "--states", "30")
        harden("fit-policy", *SETTINGS, "--steps", "1")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be spoiled."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "--set", "task=moon-walk"], "task = 'moon-walk': choose one of: ball-circle"),
        (["train", "--variant", "sifer"], "variant = 'sifer': did you mean safer"),
        (
            ["evaluate", "--attack", "mc,mx"],
            "unknown attack 'mx'; choose from: natural, random, gaussian, mc",
        ),
        (["evaluate", "--attack", "worst"], "'worst' is taken over the attacks run beside it"),
        (["evaluate", "--epsilon", "0.1,x"], "'0.1,x' is not a number, or several with commas"),
        (["evaluate", "--epsilon", "0.1,-1"], "evaluate.epsilon = -1.0"),
        (["evaluate", "--epsilon", "nan"], "evaluate.epsilon = nan"),
        (["evaluate", "--queries", "1"], "evaluate.queries = 1"),
        (["evaluate", "--episodes", "999999999"], "evaluate.episodes = 999999999"),
        (["collect", "--set", "mstep.betas=3"], "mstep.betas = 3: Extra inputs are not permitted"),
        (
            ["collect", "--set", "colect.envs=3"],
            "colect: Extra inputs are not permitted; did you mean collect",
        ),
        (["collect", "--set", "estep.particles=many"], "estep.particles = 'many'"),
        (["collect", "--set", "networks.init_std=0.01"], "min_std < init_std < max_std"),
        (["collect", "--set", "nothing"], "is not an assignment"),
        (["collect", "--set", "task.name=3"], "'task' is a value, not a section"),
        (["collect", "--device", "tpu"], "'tpu' is not one of"),
        (["collect", "-p", "none.toml"], "pipeline none.toml is missing; shipped ones: ant-run, ball-circle"),
        (["collect", "-p", "/"], "pipeline / is a folder"),
        (["collect", "--behaviour", "wild"], "'wild' is not one of"),
        (["collect", "--seed", "-1"], "--set seed=-1: seed = -1"),
        (["collect", "--episodes", "0"], "collect.episodes = 0"),
        (["fit-critics", "--steps", "0"], "critics.steps = 0"),
        (["e-step", "--particles", "999999999"], "estep.particles = 999999999"),
        (["collect", "--set", "networks.policy_hidden=[1000000000]"], "less than or equal to 8192"),
    ],
)
def test_wrong_words(folder: Path, words: list[str], said: str) -> None:
    assert said in refused(*words)


def test_a_pipeline_that_is_not_toml(folder: Path) -> None:
    (folder / "bad.toml").write_text("task = [")
    assert "is not a pipeline file" in refused("collect", "-p", "bad.toml")


@pytest.mark.parametrize(
    ("command", "missing", "said"),
    [
        ("fit-critics", "datasets", "harden collect"),
        ("e-step", "checkpoints/ball-circle/critics", "harden fit-critics"),
        ("fit-policy", "checkpoints/ball-circle/targets.h5", "harden e-step"),
        ("fit-policy", "checkpoints/ball-circle/critics", "harden fit-critics"),
        ("evaluate", "checkpoints/ball-circle/policy", "harden train"),
    ],
)
def test_a_missing_stage_names_the_command_that_makes_it(
    folder: Path, command: str, missing: str, said: str
) -> None:
    (folder / missing).rename(folder / "away")
    assert said in refused(command, *SETTINGS)


def _spoil(path: Path, key: str, value: float) -> None:
    with h5py.File(path, "r+") as file:
        file[key][3] = value


SHARD = "datasets/ball-circle/shard-00000.h5"
DATA_DAMAGE = {
    "truncated": lambda: Path(SHARD).write_bytes(Path(SHARD).read_bytes()[:5000]),
    "empty": lambda: Path(SHARD).write_bytes(b""),
    "foreign": lambda: Path(SHARD).write_text("hello"),
    "nan": lambda: _spoil(Path(SHARD), "rewards", np.nan),
    "infinite": lambda: _spoil(Path(SHARD), "observations", np.inf),
    "missing": lambda: Path(SHARD).unlink(),
}


@pytest.mark.parametrize("kind", DATA_DAMAGE)
def test_damaged_data(folder: Path, kind: str) -> None:
    DATA_DAMAGE[kind]()
    assert "shard-00000.h5" in refused("fit-critics", *SETTINGS)
    assert "shard-00000.h5" in refused("e-step", *SETTINGS)


def test_data_of_another_task_or_horizon(folder: Path) -> None:
    (folder / "ant.toml").write_text('task = "ant-run"\n')
    data = ["--data", "datasets/ball-circle"]
    assert "obs_dim 8, task 'ant-run' has 33" in refused("fit-critics", "-p", "ant.toml", *data)
    manifest = Path("datasets/ball-circle/manifest.json")
    manifest.write_text(manifest.read_text().replace('"horizon": 200', '"horizon": 250'))
    assert "horizon 250, task 'ball-circle' has 200" in refused("fit-critics", *SETTINGS)
    assert "horizon 250" in refused("collect", *SETTINGS)


def test_a_policy_of_another_task(folder: Path) -> None:
    (folder / "ant.toml").write_text('task = "ant-run"\n')
    policy = "checkpoints/ball-circle/policy"
    assert "task 'ant-run' has 33 and 8" in refused("evaluate", "-p", "ant.toml", "--policy", policy)
    assert "task 'ant-run' has 33 and 8" in refused("train", "-p", "ant.toml", "--init", policy)


@pytest.mark.parametrize(
    "name", ["policy/policy.safetensors", "critics/critics.safetensors", "state.safetensors"]
)
@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "foreign"])
def test_a_corrupted_checkpoint(folder: Path, name: str, kind: str) -> None:
    path = folder / "checkpoints/ball-circle" / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x40
    spoiled = {"truncated": content[:-40], "flipped": content, "empty": b"", "foreign": b"PK\x03\x04 pickle"}
    path.write_bytes(bytes(spoiled[kind]))
    assert path.name in refused("fit-policy", *SETTINGS)


def test_a_corrupted_manifest(folder: Path) -> None:
    (folder / "checkpoints/ball-circle/policy/manifest.json").write_text("{")
    assert "manifest.json" in refused("evaluate", *SETTINGS)


def test_weights_that_are_not_finite(folder: Path) -> None:
    from harden.nets.saved import load_policy, save_policy

    path = Path("checkpoints/ball-circle/policy")
    loaded = load_policy(path)
    with torch.no_grad():
        loaded.policy.mean_head.bias.fill_(float("nan"))
    save_policy(Path("broken"), loaded.policy, loaded.critics, {})
    assert "holds NaN or infinite values" in refused("evaluate", *SETTINGS, "--policy", "broken")


def test_targets_that_do_not_belong(folder: Path) -> None:
    harden("e-step", *SETTINGS, "--states", "20", "--out", "others.h5")
    harden("e-step", *SETTINGS, "--states", "30")
    harden("fit-policy", *SETTINGS, "--steps", "1")
    assert "was made for another policy" in refused("fit-policy", *SETTINGS, "--targets", "others.h5")
    harden("e-step", *SETTINGS, "--states", "30")
    harden("fit-critics", *SETTINGS, "--steps", "1")
    assert "with other critics" in refused("fit-policy", *SETTINGS)


def test_a_policy_and_a_state_that_do_not_belong(folder: Path) -> None:
    (folder / "next.toml").write_text("seed = 4\n")
    for words in (["collect", "--episodes", "1"], ["fit-critics", "--steps", "1"]):
        harden(words[0], "-p", "next.toml", *SETTINGS, *words[1:])
    given = ["--policy", "checkpoints/next/policy"]
    said = refused("fit-policy", *SETTINGS, *given)
    assert "do not belong together; leave it out to go on with the run's own, or begin under another" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "--json", "file/deep/a.json"], "can't write file/deep"),
        (["evaluate", "--json", "/proc/none/a.json"], "can't write /proc/none"),
        (["evaluate", "--json", "a" * 300], "File name too long"),
        (["evaluate", "--html", "datasets"], "can't write datasets"),
        (["evaluate", "--html", "file/a.html"], "can't write file"),
        (["render", "--out", "file/a.gif"], "can't write file"),
    ],
)
def test_an_unwritable_place_is_told_before_the_episodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    Path("file").write_text("a file where a folder should be")
    for stage in ("evaluate", "render"):
        monkeypatch.setattr(f"harden.stages.{stage}.open_policy", None)
    before = sorted(folder.rglob("*"))
    assert said in refused(words[0], *SETTINGS, *words[1:])
    assert sorted(folder.rglob("*")) == before


POLICY, SHARD = "checkpoints/ball-circle/policy", "datasets/ball-circle/shard-00000.h5"


@pytest.mark.parametrize("last", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["e-step", *SETTINGS, "--out"], SHARD),
        (["e-step", *SETTINGS, "--out"], f"{POLICY}/manifest.json"),
        (["evaluate", *SETTINGS, "--json"], f"{POLICY}/policy.safetensors"),
        (["evaluate", *SETTINGS, "--html"], SHARD),
        (["policy", "export", POLICY, "--to", "safetensors", "--out"], f"{POLICY}/policy.safetensors"),
        (["e-step", *SETTINGS, "--out"], "checkpoints/ball-circle/state.safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_no_output_replaces_what_is_read(folder: Path, words: list[str], out: str, last: list[str]) -> None:
    before = Path(out).read_bytes()
    said = refused(*words, out, *last)
    assert f"{out} is read by this command" in said
    assert said.endswith("name another file to write")
    assert Path(out).read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["data", "filter", "datasets/ball-circle", "--out", "a", "--min-cost"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_nan_is_no_number(folder: Path, words: list[str]) -> None:
    assert "'nan' is not a number" in refused(*words, "nan")


def test_steps_that_whole_refreshes_round_up_are_told(folder: Path) -> None:
    words = ["train", "-p", "new.toml", *SETTINGS, "--env-steps"]
    Path("new.toml").write_text("")
    told = "refreshes are whole: up to 400 steps of simulation (train.env_steps 300)"
    assert told in harden(*words, "300").output
    assert "refreshes are whole" not in harden(*words, "400", "--overwrite").output


def test_what_is_not_read_is_replaced(folder: Path) -> None:
    """Though it lies beside what is, or leads nowhere."""
    words = ["policy", "export", POLICY, "--to", "safetensors", "--out", f"{POLICY}/robot.safetensors"]
    assert harden(*words).output.split()[0] == harden(*words).output.split()[0] == "exported:"
    Path("loop").symlink_to("loop")
    harden("policy", "export", POLICY, "--to", "safetensors", "--out", "loop")
    assert Path("loop").read_bytes() == Path(f"{POLICY}/robot.safetensors").read_bytes()


def test_a_report_replaces_nothing_that_it_is_made_of_or_signs(folder: Path) -> None:
    # it goes into the run as well
    harden("evaluate", *SETTINGS, "--episodes", "1", "--attack", "", "--json", "a.json")
    Path("robot.onnx").write_bytes(b"weights")
    own = "checkpoints/ball-circle/evaluation.json"
    for out in ("a.json", "robot.onnx", own):
        words = ["--sign-off", "Ada", "--for", "robot.onnx", "--out", out]
        assert f"{out} is read by this command" in refused("report", "a.json", "ball-circle", *words)
    assert Path("robot.onnx").read_bytes() == b"weights"
    both = ["--json", "a.json", "--html", "./a.json"]
    assert "can't hold the evaluation and the report" in refused("evaluate", *SETTINGS, *both)
    assert json.loads(Path("a.json").read_text())["results"]


@pytest.mark.parametrize(
    "words",
    [
        ["fit-policy", "--steps", "1"],
        ["fit-policy", "--clone", "--out", "cloned"],
    ],
    ids=" ".join,
)
def test_an_unwritable_log(folder: Path, words: list[str]) -> None:
    harden("collect", *SETTINGS, "--episodes", "1")
    run = folder / "checkpoints/ball-circle"
    (run / "logs").rename(run / "away")
    (run / "logs").write_text("a file where a folder should be")
    assert "can't write checkpoints/ball-circle/logs/" in refused(words[0], *SETTINGS, *words[1:])


def test_independent_critics_are_fitted_where_they_can_be_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("collect.collect", "attackers.plan_adversary"):
        monkeypatch.setattr(f"harden.stages.{name}", None)
    for attack in ("mc-independent", "learned"):
        words = ["--attack", attack, "--independent", "/proc/x"]
        assert "can't write /proc/x (" in refused("evaluate", *SETTINGS, *words)


def test_what_is_fitted_can_be_copied_to_a_new_folder(folder: Path) -> None:
    from harden.nets.saved import load_critics, load_policy

    run = folder / "checkpoints/ball-circle"
    harden("fit-critics", *SETTINGS, "--steps", "1", "--out", "mine/critics")
    assert load_critics("mine/critics")[1] == load_critics(run / "critics")[1]
    harden("e-step", *SETTINGS, "--states", "30", "--critics", "mine/critics")
    harden("fit-policy", *SETTINGS, "--steps", "1", "--critics", "mine/critics", "--out", "mine/policy")
    assert load_policy("mine/policy").manifest == load_policy(run / "policy").manifest
    before = (run / "state.safetensors").read_bytes()
    for words in (["fit-critics", "--out", "mine/critics"], ["fit-policy", "--out", "mine/policy"]):
        assert "is there already; remove it, or name another" in refused(words[0], *SETTINGS, *words[1:])
    assert "can't write /proc/x" in refused("fit-critics", *SETTINGS, "--out", "/proc/x")
    assert (run / "state.safetensors").read_bytes() == before


def test_a_film_is_of_one_setting(folder: Path) -> None:
    for option, value in (("--epsilon", "0.02,0.05"), ("--attack-steps", "1,5"), ("--restarts", "1,2")):
        said = refused("render", *SETTINGS, option, value)
        assert f"'{option}': '{value}'" in said
    words = ["--norm", "l2", "--attack-steps", "7", "--restarts", "3", "--epsilon", "0.02"]
    resolved = json.loads(harden("render", *SETTINGS, *words, "--dry-run").output)
    given = resolved["config"]["evaluate"]
    assert [given[key] for key in ("norm", "attack_steps", "restarts", "epsilon")] == ["l2", 7, 3, 0.02]


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_dataset(Path("datasets/ball-circle")).info.digest
    state = Path("checkpoints/ball-circle/state.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for words in (
        ["collect", "--episodes", "1"],
        ["fit-critics", "--steps", "1"],
        ["e-step", "--states", "9"],
    ):
        assert "no room left on the disk" in refused(words[0], *SETTINGS, *words[1:])
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert open_dataset(Path("datasets/ball-circle")).info.digest == before
    assert open_dataset(Path("datasets/ball-circle")).verify() == []
    assert Path("checkpoints/ball-circle/state.safetensors").read_bytes() == state


def test_memory_that_is_not_there_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harden.method.e_step._PARTICLES", 90)
    said = refused("e-step", *SETTINGS, "--states", "30", "--particles", "4")
    assert "30 states of 4 particles each are 120; at most 90 are solved for at once" in said
    allocation = RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
    for error in (allocation, torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()):
        monkeypatch.setattr(Learner, "advance", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert "not enough memory for this; ask for less" in refused("fit-critics", *SETTINGS)


def test_a_loss_that_is_nan_keeps_the_last_good_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "run.toml").write_text("")
    words = ["train", "-p", "run.toml", *SETTINGS]
    harden(*words)
    kept = weights(Path("checkpoints/run"))
    far = ["--set", "critics.learning_rate=1e9", "--set", "networks.critic_hidden=[16, 16]"]
    assert "learning rates" in refused(*words, *far, "--overwrite", code=1)
    assert "policy_optimizer.0.step" not in weights(Path("checkpoints/run")), "the state it began with stands"
    harden(*words, "--overwrite")
    again = Path("checkpoints/run/state.safetensors").read_bytes()
    assert all(torch.equal(value, kept[name]) for name, value in weights(Path("checkpoints/run")).items())
    refused(
        "fit-critics",
        "-p",
        "run.toml",
        *SETTINGS,
        "--set",
        "critics.learning_rate=1e9",
        "--steps",
        "9",
        code=1,
    )
    assert Path("checkpoints/run/state.safetensors").read_bytes() == again


def test_attacked_data_is_refused(folder: Path) -> None:
    manifest = Path("datasets/ball-circle/manifest.json")
    manifest.write_text(manifest.read_text().replace('"policy-sample"', '"mc"'))
    assert "benign data only" in refused("fit-critics", *SETTINGS)


def test_a_policy_without_critics_gets_some_where_an_attack_asks_them(folder: Path) -> None:
    from harden.nets.saved import load_policy, save_policy

    loaded = load_policy("checkpoints/ball-circle/policy")
    save_policy(Path("bare"), loaded.policy, None, {})
    words = ["evaluate", *SETTINGS, "--policy", "bare", "--episodes", "1", "--attack-steps", "1"]
    harden(*words, "--attack", "random")
    assert not Path("bare/independent").exists(), "noise asks nothing"
    words += ["--attack", "mc", "--set", "evaluate.independent_episodes=2"]
    said = harden(*words, "--set", "evaluate.independent_steps=2").output
    assert "-> bare/independent/" in said
    assert len(list(Path("bare/independent").glob("*/critics.safetensors"))) == 1
    assert load_policy("bare").critics is None, "the policy stays as it is"


def test_what_is_said_of_a_lost_state_can_be_typed(folder: Path) -> None:
    state = folder / "checkpoints/ball-circle/state.safetensors"
    state.write_bytes(state.read_bytes()[:99])
    assert refused("train", "--resume", *SETTINGS).endswith("with: harden train -p ball-circle --overwrite")
    state.unlink()
    said = refused("train", "--resume", *SETTINGS)
    assert said == refused("train", *SETTINGS)
    assert "or discard both with --overwrite" in said, "and how to keep what is there"
    assert refused("report", "ball-circle").endswith("make it with: harden evaluate -p ball-circle")
    assert refused("report", "datasets").endswith("the file that harden evaluate --json wrote")


@pytest.fixture
def signals() -> Iterator[None]:
    """Give this process its handlers back: the processes of later tests would be born deaf."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("number", "code", "how"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_who_is_stopped_says_so(
    number: signal.Signals, code: int, how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Learner, "advance", stop)
    said = refused("fit-critics", *SETTINGS, code=code)
    assert f"stopped by {how}; what was stored before stands, its own result is written at its end" in said
    (folder / "mine.toml").write_text("")
    train = ["train", "-p", "mine.toml", *SETTINGS]
    stopped = refused(*train, code=code)
    assert stopped.endswith("the same command with --resume, without --overwrite and --init")
    monkeypatch.setattr("harden.stages.train.begin_run", stop)
    (folder / "new.toml").write_text("")
    said = refused("train", "-p", "new.toml", *SETTINGS, code=code)
    assert said.endswith("; nothing is stored yet: run it again")


OF_A_DRY_RUN = [
    (["collect", "--policy", "nowhere"], "nowhere is missing"),
    (["collect", "--out", "file/data"], "can't write file/data"),
    (["e-step", "--out", "file/targets.h5"], "can't write file"),
    (["collect", "--behaviour", "mc"], "allow it with --allow-attacked-collection"),
    (["fit-critics", "--data", "nowhere"], "data set nowhere is missing; make it with: harden collect"),
    (["fit-critics", "--policy", "nowhere"], "nowhere is missing"),
    (["fit-critics", "--out", "datasets"], "datasets is there already"),
    (
        ["e-step", "--critics", "nowhere"],
        "critics folder nowhere is missing; make it with: harden fit-critics",
    ),
    (["e-step", "--set", "variant=ppol"], "variant ppol is on-policy"),
    (["fit-policy", "--targets", "nowhere"], "nowhere is missing"),
    (["fit-policy", "--data", "nowhere"], "--data is for --clone alone"),
    (["fit-policy", "--clone", "--data", "nowhere"], "--out"),
    (["fit-policy", "--clone", "--out", "new", "--data", "nowhere"], "data set nowhere is missing"),
    (["evaluate", "--policy", "nowhere"], "nowhere is missing; make it with: harden train"),
    (["evaluate", "--attack", "foo"], "unknown attack 'foo'"),
    (["evaluate", "--data", "nowhere"], "data set nowhere is missing"),
    (["evaluate", "--curves", "--attack", "mad"], "curves follow random and mc"),
    (["evaluate", "--json", "file/a.json"], "can't write file"),
    (["evaluate", "--independent", "/proc/x", "--attack", "learned"], "can't write /proc/x ("),
    (["render", "--attack", "worst"], "attack 'worst' can't be filmed"),
    (["render", "--policy", "nowhere"], "nowhere is missing"),
    (["train"], "holds an earlier run"),
    (["train", "--resume"], "by single stages; begin a run with: harden train -p ball-circle --overwrite"),
    (["train", "--resume", "-p", "new.toml"], "no run to resume in checkpoints/new"),
    (["train", "--init", "nowhere", "-p", "new.toml"], "nowhere is missing"),
    (["train", "--data", "datasets/ball-circle", "-p", "new.toml"], "--data is for --offline"),
    (["train", "--offline", "-p", "new.toml"], "data set datasets/new is missing"),
    (["train", "--variant", "adv-cvpo", "-p", "new.toml"], "allow it with --allow-attacked-collection"),
    (["policy", "import", "nowhere.onnx", "--out", "mine"], "nowhere.onnx is missing"),
    (["policy", "import", "file", "--out", "mine"], "file does not say its format"),
]


@pytest.mark.parametrize(("words", "said"), OF_A_DRY_RUN, ids=[" ".join(words) for words, _ in OF_A_DRY_RUN])
def test_a_dry_run_refuses_what_the_command_does(folder: Path, words: list[str], said: str) -> None:
    Path("file").write_text("a file where a folder should be")
    Path("new.toml").write_text("")
    before = sorted(folder.rglob("*"))
    line = refused(*words, *SETTINGS, "--dry-run")
    assert said in line
    assert sorted(folder.rglob("*")) == before
    assert refused(*words, *SETTINGS) == line


RUN = "checkpoints/ball-circle"
LEARNED = [f"{RUN}/{name}" for name in ("state.safetensors", "critics", "policy")]


@pytest.mark.parametrize(
    ("words", "reads", "writes"),
    [
        (["collect"], LEARNED, ["datasets/ball-circle"]),
        (["collect", "--out", "more"], LEARNED, ["more"]),
        (["fit-critics", "--out", "copy"], ["datasets/ball-circle", *LEARNED], [*LEARNED, "copy"]),
        (["e-step", "--out", "a.h5"], ["datasets/ball-circle", *LEARNED], ["a.h5", *LEARNED]),
        (["fit-policy"], [f"{RUN}/targets.h5", *LEARNED], LEARNED),
        (["fit-policy", "--clone", "--out", "new"], ["datasets/ball-circle"], ["new"]),
        (
            ["evaluate", "--json", "a.json", "--attack", "mc-independent"],
            [f"{RUN}/policy", "datasets/ball-circle"],
            ["a.json", f"{RUN}/evaluation.json", f"{RUN}/card.md", f"{RUN}/policy/independent"],
        ),
        (["render", "--out", "a.gif"], [f"{RUN}/policy"], ["a.gif"]),
        (["train", "--overwrite"], [], ["datasets/ball-circle", RUN]),
        (
            ["train", "--init", f"{RUN}/policy", "-p", "new.toml"],
            [f"{RUN}/policy"],
            ["datasets/new", "checkpoints/new"],
        ),
        (["status"], ["datasets/ball-circle", RUN], []),
        (["policy", "import", "mine.safetensors", "--out", "mine"], ["mine.safetensors"], ["mine"]),
    ],
)
def test_a_dry_run_says_what_would_be_read_and_written(
    folder: Path, words: list[str], reads: list[str], writes: list[str]
) -> None:
    Path("new.toml").write_text("")
    harden("collect", *SETTINGS, "--episodes", "1")
    harden("policy", "export", f"{RUN}/policy", "--to", "safetensors", "--out", "mine.safetensors")
    before = sorted(folder.rglob("*"))
    said = json.loads(harden(*words, *SETTINGS, "--dry-run").output)
    assert sorted(folder.rglob("*")) == before
    assert (said["reads"], said["writes"]) == (reads, writes)
