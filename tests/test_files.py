"""Files are whole or not there, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harden.config.pipeline import make_config
from harden.errors import DamagedFileError, MissingInputError, StorageError
from harden.evaluation.reading import load_curve
from harden.method.learner import Learner, new_learner
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import load_policy, module_digest, save_policy
from harden.policies.adopt import Bounds
from harden.policies.state_dict import open_state_dict, write_state_dict
from harden.storage.files import digest_file, read_json, require_writable, write_json, write_text
from harden.storage.tensor_file import read_tensors, write_tensors
from harden.training.state import load_state, save_state

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


def test_tensors_survive_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.zeros(0, 2), "d": torch.tensor(True)}
    write_tensors(path, tensors, {"x": 1})
    read, about = read_tensors(path, "")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert about["x"] == 1
    with pytest.raises(MissingInputError, match="make it with: harden x"):
        read_tensors(tmp_path / "none.safetensors", "harden x")


def test_every_flipped_bit_of_a_model_file_is_found(tmp_path: Path) -> None:
    """Also those of the description, which says what the weights mean."""
    path = tmp_path / "t.safetensors"
    about = {"policy": {"obs_scale": 1.0}, "counters": {"round": 5}, "seed": 3, "name": "ä"}
    write_tensors(path, {"a": torch.ones(2), "b": torch.tensor(7)}, about)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamagedFileError):
            read_tensors(path, "")
    path.write_bytes(whole)
    assert read_tensors(path, "")[1]["seed"] == 3


def with_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a model file's description, and nothing else."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["about"])
    change(about)
    header["__metadata__"]["about"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


@pytest.mark.parametrize(
    ("key", "value"), [("obs_scale", 9.0), ("high", [3.0, 1.0]), ("low", [-9.0, -1.0]), ("min_std", 0.01)]
)
def test_a_changed_description_is_refused_also_of_an_exported_policy(
    tmp_path: Path, key: str, value: object
) -> None:
    def change(about: dict[str, Any]) -> None:
        about["policy"][key] = value

    save_policy(tmp_path / "p", trained().policy, None, {"task": "ball-circle"})
    write_state_dict(tmp_path / "e.safetensors", trained().policy, {"policy": trained().policy.architecture})
    for path in (tmp_path / "p/policy.safetensors", tmp_path / "e.safetensors"):
        with_header(path, change)
    with pytest.raises(DamagedFileError):
        load_policy(tmp_path / "p")
    low = -torch.ones(2)
    with pytest.raises(DamagedFileError):
        open_state_dict(tmp_path / "e.safetensors", Bounds(low, -low, 0.5, 0.1, 1.0), None, None)


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_refused_by_its_version(tmp_path: Path, version: int) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, {})
    with_header(path, lambda about: about.update(format_version=version))
    with pytest.raises(DamagedFileError, match=rf"format version {version}\b"):
        read_tensors(path, "")


@pytest.mark.parametrize(
    "other", [{"obs_scale": 9.0}, {"high": torch.tensor([3.0, 1.0])}, {"min_std": 0.2}, {"max_std": 0.9}]
)
def test_policies_of_one_identity_act_the_same(other: dict[str, Any]) -> None:
    policy, changed = GaussianPolicy(3, 2, (4,)), GaussianPolicy(3, 2, (4,), **other)
    changed.load_state_dict(policy.state_dict())
    assert module_digest(policy) != module_digest(changed)
    begun = GaussianPolicy(3, 2, (4,), init_std=0.3)
    begun.load_state_dict(policy.state_dict())
    assert module_digest(policy) == module_digest(begun)
    critics, scaled = Critics(3, 2, hidden=(4,)), Critics(3, 2, hidden=(4,), obs_scale=2.0)
    scaled.load_state_dict(critics.state_dict())
    assert module_digest(critics) != module_digest(scaled)


def test_what_only_looks_like_a_file_is_not_waited_for(tmp_path: Path) -> None:
    save_policy(tmp_path / "p", trained().policy, None, {})
    for name, read in (
        ("manifest.json", lambda: load_policy(tmp_path / "p")),
        ("policy.safetensors", lambda: load_policy(tmp_path / "p")),
        ("a.json", lambda: read_json(tmp_path / "p/a.json", "")),
        ("learning_curve.csv", lambda: load_curve(tmp_path / "p/learning_curve.csv")),
        ("shard.h5", lambda: digest_file(tmp_path / "p/shard.h5")),
    ):
        path = tmp_path / "p" / name
        kept = path.read_bytes() if path.exists() else None
        with socket.socket(socket.AF_UNIX) as bound:
            for make in (
                os.mkfifo,
                os.mkdir,
                lambda at: bound.bind(str(at)),
                lambda at: at.symlink_to("/dev/zero"),
            ):
                path.unlink(missing_ok=True)
                make(path)
                with pytest.raises(DamagedFileError, match=re.escape(name)):
                    read()
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


def test_a_file_too_large_to_be_what_it_is_named_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(DamagedFileError, match="too much"):
        read_json(tmp_path / "a.json", "")


@pytest.mark.parametrize("text", ["9" * 400, "-" + "9" * 5000, '"\\ud800"', '{"a": ["\\uDfff"]}'])
def test_what_can_be_neither_counted_nor_printed_is_no_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFileError, match=r"a\.json"):
        read_json(tmp_path / "a.json", "")


def test_a_write_follows_no_link_and_clears_what_the_killed_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.write_text("precious")
    out.mkdir()
    # every name that can be foreseen
    monkeypatch.setattr("harden.storage.files.secrets.token_hex", lambda _: "0" * 16)
    planted = out / f".harden-{0:016}.tmp"
    planted.symlink_to(precious)
    with pytest.raises(StorageError):
        write_text(out / "a.txt", "mine")
    monkeypatch.undo()
    planted.unlink()
    dead, alive, other = out / f".harden-{1:016}.tmp", out / f".harden-{2:016}.tmp", out / ".mine.tmp"
    for path in (dead, alive, other):
        path.write_text("half")
    with open(alive) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_text(out / "a.txt", "mine")
    assert sorted(path.name for path in out.iterdir()) == sorted(["a.txt", alive.name, other.name])
    assert precious.read_text() == "precious"


def test_a_write_replaces_no_pipe_device_or_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for make in (os.mkfifo, os.mkdir, lambda at: at.symlink_to("/dev/null")):
        make(out)
        kind = out.lstat().st_mode
        for write in (require_writable, lambda at: write_text(at, "mine")):
            with pytest.raises(StorageError):
                write(out)
        assert out.lstat().st_mode == kind
        out.rmdir() if out.is_dir() else out.unlink()


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
    assert manifest == {key: value for key, value in loaded.manifest.items() if key != "file_digest"}
    assert manifest["policy_digest"] == module_digest(learner.policy)


def test_a_loaded_policy_can_be_saved_again_without_its_critics(tmp_path: Path) -> None:
    learner = trained()
    save_policy(tmp_path / "p", learner.policy, learner.critics, {"task": "ball-circle"})
    loaded = load_policy(tmp_path / "p")
    save_policy(tmp_path / "bare", loaded.policy, None, loaded.manifest)
    bare = load_policy(tmp_path / "bare")
    assert bare.critics is None
    assert "critics_digest" not in bare.manifest
    assert bare.manifest["task"] == "ball-circle"


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
    again, record = load_state(tmp_path / "state.safetensors", config, CPU)
    save_state(tmp_path / "again.safetensors", again, about)
    assert (tmp_path / "state.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert again.counters == learner.counters
    assert record.config == about["config"]
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
