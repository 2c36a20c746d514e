"""What a data set says of itself: the manifest of a folder, and the root attributes of each shard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from harden.config.problems import first_problem
from harden.config.tasks import Task
from harden.config.variants import MC_BEHAVIOUR
from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.storage.files import read_errors, read_json, write_json

FORMAT_VERSION: Literal[1] = 1
MADE_BY = "harden collect"
MOST_STEPS = (1 << 31) - 1
_NAME = re.compile(r"shard-([0-9]{5,9})\.h5")


def _encodable(text: str) -> str:
    # an undecodable byte is half of a surrogate pair in Python, and nothing can be written of it
    text.encode("utf-8")
    return text


_Text = Annotated[str, AfterValidator(_encodable)]
_Horizon = Annotated[int, Field(ge=0, le=MOST_STEPS)]
_Size = Annotated[int, Field(ge=1, le=MOST_STEPS)]
_Count = Annotated[int, Field(ge=1, lt=1 << 48)]
_Seed = Annotated[int, Field(gt=-(1 << 63), lt=1 << 63)]
_Sum = Annotated[float, Field(allow_inf_nan=False)]


class Provenance(NamedTuple):
    """Where transitions come from: the run's seed, and the policy that acted ("" if unknown), and how."""

    seed: int = 0
    policy_digest: str = ""
    behaviour: str = "imported"


class Attributes(NamedTuple):
    """What a file in the DSRL layout says of itself, with defaults where a foreign one does not."""

    env_id: _Text = ""
    horizon: _Horizon = 0
    seed: _Seed = 0
    policy_digest: _Text = ""
    behaviour: _Text = "imported"
    format_version: Literal[1] = FORMAT_VERSION


class ShardInfo(NamedTuple):
    """A shard's entry in the manifest."""

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")]
    sha256: str
    transitions: _Count
    episodes: _Count
    reward: _Sum
    cost: _Sum
    behaviour: str
    policy_digest: str
    seed: _Seed

    def difference(self, other: ShardInfo) -> str:
        """Return the first value that the manifest's entry has otherwise, "" where none is."""
        for name, value, listed in zip(self._fields, self, other, strict=True):
            # sums depend in their last digits on the order of adding
            same = value == listed
            if isinstance(value, float) and isinstance(listed, float):
                same = math.isclose(value, listed, abs_tol=1e-6)
            if not same:
                return f"{name} {value!r}, the manifest lists {listed!r}"
        return ""


def provenance_of(stated: Attributes | ShardInfo) -> Provenance:
    """Return where the transitions come from that a file's attributes or a manifest's entry is of."""
    return Provenance(stated.seed, stated.policy_digest, stated.behaviour)


class DatasetInfo(NamedTuple):
    """What a data set holds: its task's shape and its shards, oldest first."""

    env_id: str
    horizon: _Horizon
    obs_dim: _Size
    act_dim: _Size
    shards: tuple[ShardInfo, ...]

    @property
    def transitions(self) -> int:
        """Rows in all."""
        return sum(shard.transitions for shard in self.shards)

    @property
    def episodes(self) -> int:
        """Whole episodes in all."""
        return sum(shard.episodes for shard in self.shards)

    @property
    def mean_reward(self) -> float:
        """Mean reward of an episode."""
        return sum(shard.reward for shard in self.shards) / self.episodes

    @property
    def mean_cost(self) -> float:
        """Mean cost of an episode."""
        return sum(shard.cost for shard in self.shards) / self.episodes

    @property
    def attacked(self) -> bool:
        """Whether any of it was collected under attack."""
        return any(shard.behaviour == MC_BEHAVIOUR for shard in self.shards)

    @property
    def provenance(self) -> Provenance:
        """Where all of it comes from; it counts as attacked where any of it is."""
        first, *others = set(map(provenance_of, self.shards))
        if not others:
            return first
        behaviours = {shard.behaviour for shard in self.shards}
        single = behaviours.pop() if len(behaviours) == 1 else "mixed"
        return Provenance(behaviour=MC_BEHAVIOUR if self.attacked else single)

    @property
    def digest(self) -> str:
        """The identity of the content."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


# what says of which environment, horizon ("" and 0 where unknown) and sizes data are
Kind = Task | DatasetInfo
_ATTRIBUTES = TypeAdapter(Attributes)
_MANIFEST = TypeAdapter(DatasetInfo)


def installed(*libraries: str) -> dict[str, str]:
    """Return the version of each library that is installed here; the simulation's are not everywhere."""
    found = {}
    for name in libraries:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def shard_attributes(kind: Kind, provenance: Provenance) -> dict[str, Any]:
    """Return what a file in the DSRL layout says of itself, where harden wrote it."""
    libraries = installed("harden", "torch", "gymnasium", "bullet-safety-gym", "pybullet", "h5py")
    stated = {"format_version": FORMAT_VERSION, "env_id": kind.env_id, "horizon": kind.horizon}
    return stated | provenance._asdict() | {f"version_{name}": found for name, found in libraries.items()}


def parse_attributes(values: dict[str, Any], where: str) -> Attributes:
    """Return the attributes of a file, `where` in an error; DamagedFileError: a data set can't keep them."""
    try:
        return _ATTRIBUTES.validate_python(values)
    except ValidationError as error:
        problem = ascii(str(first_problem(error, values)))[1:-1]
        remedy = "correct it in the file, or delete it there"
        raise DamagedFileError(f"{where}: attribute {problem}", remedy) from error


def shard_files(folder: Path) -> list[Path]:
    """Return the shards that lie in a folder, oldest first, listed in its manifest or not."""
    shards = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return sorted(shards, key=lambda path: _number(path.name))


def _number(name: str) -> int:
    return int(name.removeprefix("shard-").removesuffix(".h5"))


def listed_shards(file: Path) -> tuple[ShardInfo, ...]:
    """Return a file's entry in the manifest beside it, if it has one there."""
    with contextlib.suppress(MissingInputError, DamagedFileError):
        return tuple(shard for shard in read_manifest(file.parent).shards if shard.name == file.name)
    return ()


def data_files(path: Path) -> list[Path]:
    """Return the files that a data set is read from: those of its folder, or the file itself."""
    return [path / "manifest.json", *shard_files(path)] if path.is_dir() else [path]


def next_shard(folder: Path, info: DatasetInfo) -> Path:
    """Return where the next shard goes: after the last one, also where earlier ones were set aside."""
    last = max((_number(shard.name) for shard in info.shards), default=-1)
    return folder / f"shard-{last + 1:05d}.h5"


def read_info(path: Path, task: Task | None = None) -> DatasetInfo:
    """Read what a data set that holds something says of itself.

    Raises:
        MissingInputError: it is not there, or empty; InputError: it is not of the task; others as
            `read_manifest`.
    """
    with read_errors(path):
        there = path.is_dir()
    if not there:
        # a pipeline's own data set has its name
        out = f"-p {path.name}" if path.parent == Path("datasets") else f"--out {path}"
        remedy = f"{MADE_BY} {out}, or from logs with: harden data import FILE --out {path}"
        raise MissingInputError(f"data set {path} is missing", f"make it with: {remedy}")
    info = read_manifest(path)
    if not info.shards:
        raise MissingInputError(f"data set {path} is empty", f"fill it with: {MADE_BY}")
    if task is not None:
        require_of_task(info, task, path)
    return info


def require_of_task(info: DatasetInfo, task: Task, path: Path) -> None:
    """Refuse a data set that is not of the task: InputError."""
    remedy = "use the data of that task, or name another pipeline with -p"
    check_kind(info, task, f"data set {path}", f"task '{task.name}'", remedy)


def read_manifest(folder: Path) -> DatasetInfo:
    """Read a data set's manifest.

    Raises:
        MissingInputError: not there; StorageError: it may not be read.
        DamagedFileError: not a manifest of this format.
    """
    path, mend = folder / "manifest.json", f"mend it with: harden data repair {folder}"
    with read_errors(folder):
        if not path.exists() and folder.is_dir() and shard_files(folder):
            raise MissingInputError(f"{path} is missing", mend)
    try:
        value = read_json(path, MADE_BY)
        if not isinstance(value, dict) or value.get("format_version") != FORMAT_VERSION:
            raise DamagedFileError(f"{path} is not a data set's manifest of format {FORMAT_VERSION}")
        stated = {name: value[name] for name in DatasetInfo._fields if name in value}
        # by way of JSON, in which a tuple is a list: then every type is held strictly
        info = _MANIFEST.validate_json(json.dumps(stated), strict=True)
        names = [shard.name for shard in info.shards]
        if len(set(names)) != len(names) or any(shard.episodes > shard.transitions for shard in info.shards):
            raise DamagedFileError(f"{path} lists a shard twice, or more episodes than rows")
    except ValidationError as error:
        problem = first_problem(error, stated)
        raise DamagedFileError(f"{path} is not a data set's manifest: {problem}", mend) from error
    except DamagedFileError as error:
        raise DamagedFileError(error.message, mend) from error
    return info


def write_manifest(folder: Path, info: DatasetInfo) -> None:
    """Replace a data set's manifest whole."""
    content = info._asdict() | {"shards": [shard._asdict() for shard in info.shards]}
    write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION} | content)


def check_kind(info: Kind, wanted: Kind, mine: str, theirs: str, remedy: str) -> None:
    """Refuse data, called `mine`, that are not of the kind wanted, called `theirs`: InputError.

    Sizes, environment and horizon are compared where both know them.
    """
    for name in ("obs_dim", "act_dim", "env_id", "horizon"):
        value, needed = getattr(info, name), getattr(wanted, name)
        if value != needed and value and needed:
            raise InputError(f"{mine} has {name} {value}, {theirs} has {needed}", remedy)
