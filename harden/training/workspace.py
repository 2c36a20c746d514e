"""Where a pipeline's files are, and the learner that its stages pass on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig
from harden.errors import HardenError, InputError, OtherConfigurationError
from harden.method.learner import Learner, new_learner
from harden.nets.saved import load_critics, load_policy, module_digest, save_critics, save_policy
from harden.storage.files import read_json, write_json
from harden.storage.folders import require_plain_name
from harden.training.state import load_state, save_state

# what is said of a run once, at its beginning
_LASTING = ("origin", "offline", "run_config", "start", "ended")


class Workspace(NamedTuple):
    """The folders of one pipeline.

    Args:
        name: the pipeline's name, the stem of its file.
        data: its data set.
        run: what is learned from it.
    """

    name: str
    data: Path
    run: Path

    @property
    def critics(self) -> Path:
        """Where `fit-critics` writes."""
        return self.run / "critics"

    @property
    def targets(self) -> Path:
        """Where `e-step` writes."""
        return self.run / "targets.h5"

    @property
    def policy(self) -> Path:
        """Where `fit-policy` and `train` write."""
        return self.run / "policy"

    @property
    def state(self) -> Path:
        """What outlives a round."""
        return self.run / "state.safetensors"

    @property
    def estimates(self) -> Path:
        """Where `train --offline` writes what it can say without a simulation."""
        return self.run / "offline.json"

    @property
    def evaluation(self) -> Path:
        """Where `evaluate` writes the result of the run's own policy."""
        return self.run / "evaluation.json"


def workspace(name: str, root: Path = Path()) -> Workspace:
    """Return a pipeline's folders below `root`; InputError where they can't be named so."""
    require_plain_name(name, "the pipeline")
    return Workspace(name, root / "datasets" / name, root / "checkpoints" / name)


def pick_device(name: str) -> torch.device:
    """Return the device meant by auto, cpu or cuda.

    Raises:
        InputError: cuda was asked for and is not there, or no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{name}'", "choose one of: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here", "use --device cpu, or auto")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, and the number of threads, on which its last bits do."""
    names = ("harden", "torch", "numpy", "lightning", "gymnasium", "bullet-safety-gym", "pybullet")
    of_python = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    return of_python | {name: version(name) for name in names}


def describe(config: PipelineConfig, **more: Any) -> dict[str, Any]:
    """Return what is written beside everything that a configuration made."""
    task = config.task_row
    about = {
        "task": config.task,
        "env_id": task.env_id,
        "horizon": task.horizon,
        "variant": config.variant,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    return about | more


def open_learner(
    config: PipelineConfig,
    place: Workspace,
    device: torch.device,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    *,
    refresh: int | None = None,
) -> tuple[Learner, dict[str, Any] | None]:
    """Return the learner of a workspace: its state, or one begun from what is there.

    Args:
        policy_dir, critics_dir: folders named by the user instead of the workspace's own.
        refresh: of `train`, whose learning goes on; without one, a stage by hand goes on from the policy that
            the run published.

    Returns:
        The learner, and what was stored with its state, None where there is no state.

    Raises:
        InputError: the state, the policy and the critics do not belong together.
    """
    state = None
    if place.state.is_file():
        state = load_state(place.state, config, device)
        _require_same(config, state[1], place)
    policy_path, critics_path = policy_dir or place.policy, critics_dir or place.critics
    policy = load_policy(policy_path) if policy_dir or policy_path.is_dir() else None
    critics = load_critics(critics_path)[0] if critics_dir or critics_path.is_dir() else None
    if state is None:
        learner = new_learner(config, device, policy)
        if critics is not None:
            learner = Learner(learner.policy, critics, config, device, values=learner.values)
        return learner, None
    learner, about = state
    # what a kill left one commit behind is the state's too, and is written anew with it
    of_critics, of_policy = about.get("before", ["", ""])
    for name, path, given, own, before in (
        ("policy", policy_path, policy.policy if policy else None, learner.average, of_policy),
        ("critics", critics_path, critics, learner.critics, of_critics),
    ):
        if given is not None and module_digest(given) not in (module_digest(own), before):
            raise InputError(
                f"the {name} in {path} and the run's state in {place.state} do not belong together",
                "leave it out to go on with the run's own, or begin under another pipeline's name, with -p"
                if path in (policy_dir, critics_dir)
                else f"go on from the state with: harden train -p {place.name} --resume",
            )
    if refresh is None:
        learner.policy.load_state_dict(learner.average.state_dict())
    return learner, about


def _require_same(config: PipelineConfig, about: dict[str, Any], place: Workspace) -> None:
    """Refuse to go on as something else: what is written beside the state would say what it is not."""
    recorded, now = about.get("config", {}), config.model_dump(mode="json", include={"variant", "networks"})
    for key, value in now.items():
        if recorded.get(key, value) != value:
            raise OtherConfigurationError(
                f"the state in {place.state} was made with another '{key}' ({recorded[key]}, here {value})",
                "go on with its own, or begin under another pipeline's name",
            )


def which_policy(config: PipelineConfig) -> str:
    """Return which policy a run keeps, in words; the rule looks at no roll-out."""
    if config.train.average == 0:
        return "last: the policy at the end of the last refresh"
    return f"average: the running average over {config.train.average:g} of training's rounds"


def origin_of(about: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a policy folder says of where its policy comes from, to be handed on with the state.

    Args:
        about: the folder's manifest, None where a run begins with an untrained policy.
    """
    keys = ("variant", "made_by", "clone", "imported", "inputs", "policy_digest")
    known = {key: about[key] for key in keys if key in about} if about else {}
    return {"origin": about.get("origin", known)} if about else {}


def carried_from(about: dict[str, Any] | None, policy_dir: Path) -> dict[str, Any]:
    """Return what `carried` does, or where there is no state yet, what the policy's folder says of it."""
    if about is None and policy_dir.is_dir():
        return origin_of(load_policy(policy_dir).about)
    return carried(about)


def lasting(about: dict[str, Any]) -> dict[str, Any]:
    """Return what every refresh of a run hands on as it was at the beginning."""
    return {key: about[key] for key in _LASTING if key in about}


def carried(about: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a stage that does not renew it hands on from the state before."""
    keys = ("history", "kept", "data_digest", "parent", "targets_digest", *_LASTING)
    return {key: about[key] for key in keys if about and key in about}


def commit(config: PipelineConfig, place: Workspace, learner: Learner, about: dict[str, Any]) -> None:
    """Write the learner: first the state, which alone decides, then the folders made from it.

    Args:
        about: `data_digest`, `parent` (the policy that the critics were fitted for), `origin` (where the
            run's first policy comes from), and what the run adds.
    """
    # the one that collects and learns on, which is not the one that is kept where an average is
    acting = module_digest(learner.policy)
    full = describe(config, **about, acting_digest=acting, before=_in_folders(place))
    save_state(place.state, learner, full)
    _write_folders(place, learner, full)


def _in_folders(place: Workspace) -> list[str]:
    """Return the digests that the critics' and the policy's folders give of themselves, "" without one."""
    found = []
    for folder, key in ((place.critics, "critics_digest"), (place.policy, "policy_digest")):
        try:
            found.append(str(read_json(folder / "manifest.json", "").get(key, "")))
        except HardenError:
            found.append("")
    return found


def _write_folders(place: Workspace, learner: Learner, full: dict[str, Any]) -> None:
    inputs = {"data": full.get("data_digest", ""), "policy": full.get("parent", "")}
    aside = ("history", "before", "run_config")
    shared = {key: value for key, value in full.items() if key not in aside} | {"inputs": inputs}
    save_critics(place.critics, learner.critics, shared)
    # while it is still the policy that came in, it is said to be that one
    origin = full.get("origin", {})
    same = origin.get("policy_digest") == module_digest(learner.average)
    own = {key: origin[key] for key in ("variant", "made_by", "clone", "imported") if key in origin}
    save_policy(place.policy, learner.average, learner.critics, shared | own if same else shared)
    write_json(place.run / "config.json", full.get("run_config", full["config"]))


def renew_folders(place: Workspace, learner: Learner, about: dict[str, Any]) -> None:
    """Write the folders made from the state once more where a kill left them one commit behind it."""
    now = [module_digest(learner.critics), module_digest(learner.average)]
    pairs = zip(_in_folders(place), about.get("before", now), now, strict=True)
    if any(there == before != own for there, before, own in pairs):
        _write_folders(place, learner, about)
