"""Files are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from harden.checkpoint import load_policy, module_digest, read_tensors, save_policy, write_tensors
from harden.config import make_config
from harden.errors import DamagedFileError, MissingInputError, StorageError
from harden.files import read_json, write_json, write_text
from harden.learner import Learner, load_state, new_learner, save_state

CPU = torch.device("cpu")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(StorageError, match="no room left"):
                write_text(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_numbers_that_are_not_finite_never_reach_a_json_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert read_json(tmp_path / "a.json", "") == {"x": 1}


def test_tensors_survive_to_the_bit_and_are_refused_when_altered(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.zeros(0, 2), "d": torch.tensor(True)}
    write_tensors(path, tensors, {"format_version": 1})
    read, about = read_tensors(path, "")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert about["format_version"] == 1
    with pytest.raises(MissingInputError, match="make it with: harden x"):
        read_tensors(tmp_path / "none.safetensors", "harden x")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match="digest"):
        read_tensors(path, "")


def test_a_later_format_is_refused_by_its_version(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)}, {"format_version": 2})
    with pytest.raises(DamagedFileError, match="format version 2, this harden reads 1"):
        read_tensors(tmp_path / "t.safetensors", "")


def trained(seed: int = 0) -> Learner:
    """Return a learner whose optimizers and multipliers hold something."""
    learner = new_learner(make_config({"seed": seed, "networks": {"policy_hidden": [8]}}), CPU)
    for module, optimizer in (
        (learner.policy, learner.policy_optimizer),
        (learner.critics, learner.critic_optimizer),
    ):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    learner.beta, learner.beta_robust = torch.tensor((0.3, 7.0)), torch.tensor((0.1, 0.0))
    learner.advance(refresh=3, round=40, critic_steps=41, policy_steps=80)
    return learner


def test_a_policy_folder_gives_back_the_same_policy(tmp_path: Path) -> None:
    learner = trained()
    save_policy(tmp_path / "p", learner.policy, learner.critics, {"task": "ball-circle"})
    loaded = load_policy(tmp_path / "p")
    obs, actions = torch.randn(9, 8), torch.rand(9, 2)
    assert torch.equal(loaded.policy.mean(obs), learner.policy.mean(obs))
    assert loaded.critics is not None
    assert torch.equal(loaded.critics(obs, actions), learner.critics(obs, actions))
    manifest = read_json(tmp_path / "p/manifest.json", "")
    assert manifest == {key: value for key, value in loaded.about.items() if key != "tensors_digest"}
    assert manifest["policy_digest"] == module_digest(learner.policy)


def test_a_loaded_policy_can_be_saved_again_without_its_critics(tmp_path: Path) -> None:
    learner = trained()
    save_policy(tmp_path / "p", learner.policy, learner.critics, {"task": "ball-circle"})
    loaded = load_policy(tmp_path / "p")
    save_policy(tmp_path / "bare", loaded.policy, None, loaded.about)
    bare = load_policy(tmp_path / "bare")
    assert bare.critics is None
    assert "critics_digest" not in bare.about
    assert bare.about["task"] == "ball-circle"


def test_a_policy_whose_architecture_was_changed_is_refused(tmp_path: Path) -> None:
    learner = trained()
    path = tmp_path / "p/policy.safetensors"
    save_policy(tmp_path / "p", learner.policy, None, {})
    tensors, about = read_tensors(path, "")
    about["policy"]["hidden"] = [9]
    write_tensors(path, tensors, about)
    with pytest.raises(DamagedFileError, match="do not fit"):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize("scale", [0, -1, "inf", "wide", None])
def test_a_policy_of_no_scale_is_refused(tmp_path: Path, scale: object) -> None:
    save_policy(tmp_path / "p", trained().policy, None, {})
    path = tmp_path / "p/policy.safetensors"
    tensors, about = read_tensors(path, "")
    about["policy"]["obs_scale"] = scale
    write_tensors(path, tensors, about)
    with pytest.raises(DamagedFileError, match="do not fit"):
        load_policy(tmp_path / "p")


@pytest.mark.parametrize("variant", ["safer-long", "ppol"])
def test_every_network_has_the_pipelines_scale_also_when_read_back(tmp_path: Path, variant: str) -> None:
    config = make_config({"variant": variant, "networks": {"policy_hidden": [8], "obs_scale": 0.1}})
    learner = new_learner(config, CPU)
    save_state(tmp_path / "state.safetensors", learner, {"task": "ball-circle"})
    for one in (learner, load_state(tmp_path / "state.safetensors", config, CPU)[0]):
        ensembles = one.critics.ensemble, one.target_critics.ensemble
        others = [] if one.values is None else [one.values]
        assert {net.obs_scale for net in (one.policy, one.average, *ensembles, *others)} == {0.1}
    save_policy(tmp_path / "p", learner.policy, learner.critics, {})
    loaded = load_policy(tmp_path / "p")
    assert loaded.critics is not None
    assert loaded.policy.obs_scale == loaded.critics.ensemble.obs_scale == 0.1


def test_the_whole_learner_survives_to_the_bit(tmp_path: Path) -> None:
    config = make_config({"networks": {"policy_hidden": [8]}})
    learner = trained()
    about = {"task": "ball-circle", "config": config.model_dump(mode="json")}
    save_state(tmp_path / "state.safetensors", learner, about)
    again, said = load_state(tmp_path / "state.safetensors", config, CPU)
    save_state(tmp_path / "again.safetensors", again, about)
    assert (tmp_path / "state.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert again.counters == learner.counters
    assert said["task"] == "ball-circle"
    for one in (learner, again):
        for parameter in one.policy.parameters():
            parameter.grad = torch.ones_like(parameter)
        one.policy_optimizer.step()
    assert module_digest(again.policy) == module_digest(learner.policy)


def test_untrained_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = module_digest(new_learner(make_config({"seed": 3}), CPU).critics)
    torch.manual_seed(2)
    assert module_digest(new_learner(make_config({"seed": 3}), CPU).critics) == first
    assert module_digest(new_learner(make_config({"seed": 4}), CPU).critics) != first
