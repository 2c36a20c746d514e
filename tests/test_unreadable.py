"""What may not be read is told as that: nothing is called damaged, set aside or made again for it."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harden.cli import main
from harden.data.dataset import DatasetWriter, open_dataset
from harden.data.edit import repair
from harden.errors import DamagedFileError, StorageError
from harden.storage.files import digest_file, read_json
from harden.storage.tensor_file import read_tensors, write_tensors
from support.commands import SETTINGS, harden, refused
from support.transitions import HOW, TASK, make

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"
_VERSION_3, _PAST_PERMISSIONS = 0x20080522, (1 << 1) | (1 << 2)


@pytest.fixture(autouse=True)
def no_passkey() -> Iterator[None]:
    """Give up root's leave to read everything, for a test."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, kept = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, kept) == 0
    given = (ctypes.c_uint32 * 6)(*kept)
    given[0] &= ~_PAST_PERMISSIONS
    assert libc.capset(head, given) == 0
    yield
    libc.capset(head, kept)


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """A folder with a policy and a data set; what is in the list is opened again afterwards."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(RELEASED, "policy")
    with DatasetWriter(Path("data"), TASK) as writer:
        writer.append(make([2, 1]), **HOW)
        writer.append(make([1], 3), **HOW | {"seed": 4})
    shut: list[Path] = []
    yield shut
    for path in shut:
        path.chmod(0o755)


def shut(path: str, closed: list[Path]) -> None:
    """Take all leave away from a file or folder."""
    closed.append(Path(path).absolute())
    closed[-1].chmod(0)
    # not os.access: it asks by whom the process was begun
    with pytest.raises(PermissionError):
        os.open(path, os.O_RDONLY)


@pytest.mark.parametrize(
    ("path", "words", "said"),
    [
        ("data", ["data", "info", "data"], "can't read data/manifest.json (Permission denied)"),
        ("data", ["data", "repair", "data"], "can't"),
        ("data/manifest.json", ["data", "repair", "data"], "can't read data/manifest.json"),
        ("data/shard-00000.h5", ["data", "repair", "data"], "can't read data/shard-00000.h5"),
        ("data/shard-00000.h5", ["data", "info", "data"], "can't read data/shard-00000.h5"),
        ("data", ["fit-critics", "--data", "data"], "can't read data/manifest.json"),
        ("data/manifest.json", ["fit-critics", "--data", "data"], "can't read data/manifest.json"),
        ("policy", ["policy", "info", "policy"], "can't read policy/policy.safetensors"),
        (".", ["policy", "info", "policy"], "can't use policy (Permission denied)"),
        (
            "policy/policy.safetensors",
            ["policy", "info", "policy"],
            "can't read policy/policy.safetensors (Perm",
        ),
        ("policy/manifest.json", ["policy", "info", "policy"], "can't read policy/manifest.json"),
        ("policy/evaluation.json", ["report", "policy"], "can't read policy/evaluation.json"),
        ("policy", ["report", "policy"], "can't use policy/evaluation.json (Permission denied)"),
        (
            "policy/policy.safetensors",
            ["policy", "import", "policy/policy.safetensors", "--out", "new"],
            "can't read policy/policy.safetensors",
        ),
    ],
)
def test_what_may_not_be_read_is_one_line(closed: list[Path], path: str, words: list[str], said: str) -> None:
    shut(path, closed)
    told = refused(*words)
    assert said in told
    assert "make it" not in told
    assert "leave to" in told or "may write" in told


def test_a_shard_that_may_not_be_read_is_not_set_aside(closed: list[Path]) -> None:
    before = digest_file(Path("data/manifest.json"))
    Path("data/shard-00001.h5").write_bytes(b"damaged")
    shut("data/shard-00000.h5", closed)
    with pytest.raises(StorageError, match="it may be whole"):
        repair(Path("data"))
    assert not Path("data/damaged").exists()
    assert digest_file(Path("data/manifest.json")) == before
    Path("data/shard-00000.h5").chmod(0o644)
    assert [line.split(":")[0] for line in repair(Path("data")).aside] == ["shard-00001.h5"]


@pytest.mark.parametrize("part", ["datasets/ball-circle", "checkpoints/ball-circle"])
def test_status_says_what_it_may_not_read(
    closed: list[Path], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden("collect", *SETTINGS, "--episodes", "1")
    harden("fit-critics", *SETTINGS, "--steps", "1")
    shut(part, closed)
    result = CliRunner().invoke(main, ["status", *SETTINGS])
    assert result.exit_code == 0, result.output
    assert f"can't read {part}" in result.output
    assert "evaluate" in result.output


def test_readers_name_the_file(closed: list[Path]) -> None:
    shut("policy/policy.safetensors", closed)
    for read in (lambda path: read_tensors(path, "x"), lambda path: read_json(path, "x"), digest_file):
        with pytest.raises(
            StorageError, match=r"can't read policy/policy\.safetensors \(Permission denied\)"
        ):
            read(Path("policy/policy.safetensors"))


def test_a_damaged_shard_names_the_repair_that_keeps_the_others(closed: list[Path]) -> None:
    shard = Path("data/shard-00000.h5")
    shard.write_bytes(shard.read_bytes()[:-3000])
    for words in (["data", "info", "data"], ["fit-critics", "--data", "data"]):
        told = refused(*words)
        assert "harden data repair data" in told
        assert "harden collect" not in told
    shard.unlink()
    told = refused("data", "info", "data")
    assert "data/shard-00000.h5 is missing" in told
    assert "harden data repair data" in told


def test_a_half_written_shard_beside_the_manifest_names_the_repair(closed: list[Path]) -> None:
    Path("data/shard-00002.h5").write_bytes(b"half")
    with pytest.raises(DamagedFileError, match="with: harden data repair data"):
        DatasetWriter(Path("data"), TASK)
    repair(Path("data"))
    assert len(open_dataset(Path("data"))) == 4


def test_weights_that_do_not_fit_say_which_and_what_to_do(closed: list[Path]) -> None:
    path = Path("policy/policy.safetensors")
    tensors, about = read_tensors(path, "x")
    name = next(name for name in tensors if name.startswith("critics.ensemble.biases"))
    write_tensors(path, tensors | {name: tensors[name][:1].clone()}, about)
    told = refused("policy", "info", "policy")
    assert f"do not fit (size mismatch for {name.removeprefix('critics.')}" in told
    assert "make it again with: harden train" in told
