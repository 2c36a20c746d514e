"""Policies from logs alone, and what becomes of policies without critics, on real simulation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harden.data.dataset import open_dataset
from harden.nets.saved import load_policy
from support.commands import SETTINGS, harden, refused

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
NETWORK = ["--set", "networks.policy_hidden=[64, 64]"]


# logs of the policy as it is, without the pipeline's exploration
PLAIN = ["--set", "collect.min_std=0", "--set", "collect.correlation=0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real logs of the released policy and a clone from them."""
    folder = tmp_path_factory.mktemp("cloned")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        harden("collect", "--episodes", "20", "--policy", str(RELEASED), "--quiet", *PLAIN)
        said = harden("fit-policy", "--clone", "--steps", "3000", *NETWORK, "--quiet").output
        (folder / "said").write_text(said)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


def test_a_clone_beats_every_constant_policy_on_episodes_it_never_saw(folder: Path) -> None:
    found = load_policy("checkpoints/ball-circle/policy")
    report = found.manifest["clone"]
    assert report["episodes"] == {"fit": 16, "stop": 2, "held_out": 2}
    assert report["held_out"]["log_likelihood"] > report["constant"]["log_likelihood"] + 1
    assert report["held_out"]["action_error"] < 0.3 * report["constant"]["action_error"]
    assert "on 2 held-out episodes" in Path("said").read_text()
    # and on logs of other episodes, against the best constant action of these very logs
    collect = ["collect", "--episodes", "3", "--policy", str(RELEASED), "--seed", "5", "--out", "others"]
    harden(*collect, "--quiet", *PLAIN)
    others = open_dataset(Path("others")).recent(600)
    with torch.no_grad():
        error = (found.policy.mean(others.obs) - others.actions).square().mean().sqrt()
    assert float(error) < 0.3 * float(others.actions.std(0, unbiased=False).mean())


def test_a_clone_is_a_policy_folder_that_names_its_data(folder: Path) -> None:
    about = json.loads(Path("checkpoints/ball-circle/policy/manifest.json").read_text())
    assert about["variant"] == "clone"
    assert about["inputs"]["data"] == open_dataset(Path("datasets/ball-circle")).info.digest
    assert "critics" not in about
    assert "fit-critics" in harden("policy", "info", "checkpoints/ball-circle/policy").output


def test_a_clone_acts_as_its_teacher(folder: Path) -> None:
    words = ["evaluate", "--attack", "", "--episodes", "4", "--quiet"]
    results = []
    for name, policy in (("teacher", RELEASED), ("clone", "checkpoints/ball-circle/policy")):
        harden(*words, "--policy", str(policy), "--json", f"{name}.json")
        results.append(json.loads(Path(f"{name}.json").read_text())["results"][0])
    teacher, clone = results
    assert clone["reward"]["mean"] > 0.8 * teacher["reward"]["mean"] > 300


def test_from_logs_to_an_attacked_policy(folder: Path) -> None:
    """A clone has no critics to be hardened with: fit-critics mends it, and all goes on."""
    own = "checkpoints/ball-circle/policy"
    cloned = load_policy(own).manifest
    harden("fit-critics", *SETTINGS, "--steps", "3", "--quiet")
    assert load_policy(own).critics is not None
    # the same policy, with critics now: where it comes from is still said
    about = json.loads(Path(own, "manifest.json").read_text())
    assert load_policy(own).manifest["policy_digest"] == about["policy_digest"] == cloned["policy_digest"]
    assert {name: about[name] for name in ("variant", "made_by", "clone")} == {
        name: cloned[name] for name in ("variant", "made_by", "clone")
    }
    assert "harden fit-policy --clone" in harden("policy", "info", own).output
    attack = ["--attack", "mc", "--attack-steps", "2", "--restarts", "1", "--episodes", "1", "--quiet"]
    assert "mc" in harden("evaluate", *attack).output
    harden("e-step", *SETTINGS, "--states", "30", "--quiet")
    harden("fit-policy", *SETTINGS, "--steps", "1", "--quiet")
    about = load_policy(own).manifest
    # another policy now: the clone is where it began
    assert about["variant"] == "safer-model"
    assert "clone" not in about
    assert about["origin"]["clone"] == cloned["clone"]
    assert about["origin"]["policy_digest"] == cloned["policy_digest"]
    assert "holds a run" in refused("fit-policy", "--clone", *NETWORK)


def test_an_imported_policy_is_attacked_and_hardened(folder: Path) -> None:
    harden(
        "policy",
        "export",
        str(RELEASED),
        "--to",
        "torchscript",
        "--out",
        "mine.pt",
        "--data",
        "datasets/ball-circle",
    )
    harden("policy", "import", "mine.pt", "--out", "mine", "--data", "datasets/ball-circle", "--quiet")
    (folder / "hard.toml").write_text("")
    harden("train", "-p", "hard.toml", *SETTINGS, "--init", "mine", "--quiet")
    (folder / "fitted.toml").write_text("")
    data = ["--data", "datasets/ball-circle"]
    harden(
        "fit-critics", "-p", "fitted.toml", *SETTINGS, *data, "--policy", "mine", "--steps", "3", "--quiet"
    )
    fitted = load_policy("checkpoints/fitted/policy")
    obs = torch.randn(20, 8)
    torch.testing.assert_close(fitted.policy.mean(obs), load_policy(RELEASED).policy.mean(obs))
    assert fitted.manifest["imported"] == load_policy("mine").manifest["imported"]
    assert load_policy("checkpoints/hard/policy").manifest["origin"]["made_by"] == "harden policy import"
    attack = ["--attack", "mc", "--attack-steps", "2", "--restarts", "1", "--episodes", "1", "--quiet"]
    harden("evaluate", *attack, "--policy", "checkpoints/fitted/policy")


def test_what_a_clone_needs_is_said(folder: Path) -> None:
    assert "--overwrite" in refused("fit-policy", "--clone")
    assert "--overwrite is for --clone alone" in refused("fit-policy", "--overwrite")
    assert "--policy can't be had with --clone" in refused("fit-policy", "--clone", "--policy", "x")
    assert "harden collect" in refused("fit-policy", "--clone", "--out", "x", "--data", "nowhere")
    harden("collect", "--episodes", "2", "--behaviour", "random", "--out", "few", "--quiet")
    assert "three are needed" in refused("fit-policy", "--clone", "--out", "x", "--data", "few")
    assert not Path("x").exists()
    manifest = Path("few/manifest.json")
    manifest.write_text(manifest.read_text().replace('"random"', '"mc"'))
    assert "benign data only" in refused("fit-policy", "--clone", "--out", "x", "--data", "few")
