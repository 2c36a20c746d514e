"""Policies as state dicts, numbers under names: these say whose they are, the user says the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from harden.errors import DamagedFileError, InputError, foreign_errors
from harden.nets import GaussianPolicy
from harden.nets.saved import build_network
from harden.policies.adopt import Bounds, Linear, are_chained, make_policy, set_spread
from harden.policies.foreign import MEMORYLESS, ForeignPolicy, require_width
from harden.policies.reading import ACTIVATIONS, SQUASHES, Reading
from harden.storage.files import digest_file
from harden.storage.tensor_file import read_tensors, tensor_bytes

KEPT_INSIDE = "the file's, kept inside our floor and ceiling"
_MODULES = (nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.SELU, nn.GELU, nn.LeakyReLU, nn.Sigmoid)
_NONLINEAR = dict(zip(ACTIVATIONS, _MODULES, strict=True))
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MADE_BY = "harden policy export"


def write_state_dict(path: Path, policy: GaussianPolicy, manifest: dict[str, Any]) -> None:
    """Write a policy's parameters under their own names, with the architecture in the header."""
    path.write_bytes(tensor_bytes(policy.state_dict(), manifest))


def read_exported(path: Path) -> GaussianPolicy:
    """Return the policy that `write_state_dict` wrote; DamagedFileError: none such, or altered."""
    tensors, manifest = read_tensors(path, _MADE_BY)
    return build_network(GaussianPolicy, manifest.get("policy"), tensors, path, _MADE_BY).eval()


class Layout(NamedTuple):
    """Whose names the parameters of an MLP have, and what that says of what is not in the file.

    Patterns are of whole names; # is a layer's number.

    Args:
        owner: whose, in words.
        sign: a name that no other layout has.
        chain: the layers' names without .weight and .bias, in order.
        activation, squash: the library's own, None where it has none.
        spread, log_spread: of the parameter that is the standard deviation, or its logarithm.
        normaliser: what the names of an observation normaliser begin with.
        idle: of parameters that do not act, such as critics.
        unsaid: what acts too and is not in the file, in words.
    """

    owner: str
    sign: str
    chain: tuple[str, ...]
    activation: str | None = None
    squash: str | None = None
    spread: str = "-"
    log_spread: str = "-"
    normaliser: str = "-"
    idle: str = "-"
    unsaid: str = ""


_VEC_NORMALIZE = "a VecNormalize around its environment is not in the file, and is not applied"
_SAC = Layout(
    "Stable-Baselines3's SAC",
    r"(actor\.)?latent_pi\.#\.weight",
    (r"(actor\.)?latent_pi\.#", r"(actor\.)?mu", r"(actor\.)?mu\.0"),
    "relu",
    "tanh",
    idle=r"(actor\.)?log_std(\..*)?|critic.*",
    unsaid=_VEC_NORMALIZE,
)
_LAYOUTS = (
    _SAC,
    Layout(
        "Stable-Baselines3's PPO and A2C",
        r"action_net\.weight",
        (r"mlp_extractor\.shared_net\.#", r"mlp_extractor\.policy_net\.#", "action_net"),
        "tanh",
        "none",
        log_spread="log_std",
        idle=r"(mlp_extractor\.)?value_net\..*",
        unsaid=_VEC_NORMALIZE,
    ),
    Layout(
        "Stable-Baselines3's TD3 and DDPG",
        r"(actor\.)?mu\.#\.weight",
        (r"(actor\.)?mu\.#",),
        "relu",
        "tanh",
        idle=r"(actor_target|critic).*",
        unsaid=_VEC_NORMALIZE,
    ),
    Layout(
        "CleanRL's PPO",
        r"actor_mean\.#\.weight",
        (r"actor_mean\.#",),
        "tanh",
        "none",
        log_spread="actor_logstd",
        idle=r"critic\..*",
        unsaid="the NormalizeObservation around its environment is not in the file, and is not applied",
    ),
    Layout(
        "CleanRL's SAC, TD3 and DDPG",
        r"fc_(mean|mu)\.weight",
        ("fc#", "fc_(mean|mu)"),
        "relu",
        "tanh",
        idle=r"fc_logstd\..*",
    ),
    Layout(
        "RSL-RL",
        r"std|distribution\.(log_)?std_param|(actor_)?obs_normalizer\._mean",
        (r"(actor|mlp)\.#",),
        "elu",
        "none",
        r"std|distribution\.std_param",
        r"log_std|distribution\.log_std_param",
        r"(actor_)?obs_normalizer\.",
        r"critic\..*|critic_obs_normalizer\..*",
        "a normaliser that is not part of the policy is not in the file, and is not applied",
    ),
    Layout("one nn.Sequential", r"(.*\.)?#\.weight", (r"(.*\.)?#",), log_spread=r"(.*\.)?log_std"),
)
# what RSL-RL adds to the standard deviation it divides by, and does not store
_RSL_EPSILON = 1e-2


class Network(NamedTuple):
    """The MLP in a state dict.

    Args:
        layers: in order; an observation normaliser is folded into the first.
        std: its spread, (act_dim,), None where it brings none.
        scaled: the lowest and the highest action that its names give, or None.
        layout: whose names they are.
        clipped: its mean is clipped before it is squashed.
    """

    layers: list[Linear]
    std: Tensor | None
    scaled: tuple[Tensor, Tensor] | None
    layout: Layout
    clipped: bool


def open_state_dict(path: Path, reading: Reading, bounds: Bounds, obs: Tensor) -> ForeignPolicy:
    """Read a state dict in safetensors that harden exported, or an MLP's; as `open_foreign` says."""
    unreadable = foreign_errors(f"{path} can't be read as safetensors", kind=DamagedFileError)
    with unreadable, safe_open(path, framework="pt", device="cpu") as handle:
        exported = "about" in (handle.metadata() or {})
        state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    if not exported:
        return from_parameters("safetensors", path, state, reading, bounds, obs.shape[1])
    policy = read_exported(path)
    require_sizes(path, policy.architecture["obs_dim"], obs.shape[1], policy.architecture["act_dim"], bounds)
    return ForeignPolicy("safetensors", policy, policy, "the file's", True, digest_file(path))


def from_parameters(
    kind: str,
    path: Path,
    state: dict[str, Tensor],
    reading: Reading,
    bounds: Bounds,
    obs_dim: int,
    limits: tuple[Tensor, Tensor] | None = None,
    clip_mean: float = 2.0,
) -> ForeignPolicy:
    """Return the policy of an MLP's parameters.

    Args:
        kind, path: of the file that they are from.
        state: parameters by name.
        reading: what the user or the file says, which counts before what the names say.
        limits: the lowest and the highest action that the file says, (act_dim,) each.
        clip_mean: what Stable-Baselines3 clips the mean of state-dependent exploration to, before the tanh.

    Raises:
        DamagedFileError: NaN; InputError: names that are not understood, a recurrent or stacked policy,
            other sizes than the task's, or the activations are not known.
    """
    layers, std, scaled, layout, clipped = read_network(path, state)
    require_sizes(path, layers[0].weight.shape[1], obs_dim, len(layers[-1].bias), bounds)
    activation, squash = reading.activation or layout.activation, reading.squash or layout.squash
    if activation is None or squash is None:
        options = f"--activation {'|'.join(ACTIVATIONS)} and --squash {'|'.join(SQUASHES)}"
        raise InputError(f"{path} does not say its activations", f"say them with {options}")
    notes = [layout.unsaid] if layout.unsaid else []
    if not reading.activation and limits is None:
        of = f"its names are those of {layout.owner}"
        notes.insert(0, f"{of}, whose {activation} is taken for its hidden layers (or give --activation)")
    own = scaled or limits or bounds[:2]
    same = all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(own, bounds[:2], strict=True))
    low, high = bounds[:2] if same else own
    if not same:
        notes.append(f"its actions are from {low.tolist()} to {high.tolist()}, which is not the task's range")
    plain = (activation, squash, clipped, same) == ("relu", "tanh", False, True)
    adopted, spread = make_policy(layers, bounds) if plain else None, ""
    if adopted is not None and std is not None:
        spread = "the file's" if set_spread(adopted, std / adopted.half_range) else KEPT_INSIDE
    nonlinear = _NONLINEAR[activation]()

    def run(obs: Tensor) -> tuple[Tensor, Tensor | None]:
        h = obs.cpu()
        for layer in layers[:-1]:
            h = nonlinear(nn.functional.linear(h, *layer))
        mean = nn.functional.linear(h, *layers[-1])
        if clipped:
            mean = mean.clamp(-clip_mean, clip_mean)
        if squash == "tanh":
            mean = (low + high) / 2 + (high - low) / 2 * torch.tanh(mean)
        elif limits:
            mean = torch.maximum(torch.minimum(mean, high), low)
        return mean, None if std is None else std.expand_as(mean)

    return ForeignPolicy(kind, run, adopted, spread, True, digest_file(path), "; ".join(notes))


def require_sizes(path: Path, width: int, obs_dim: int, actions: int, bounds: Bounds) -> None:
    """Refuse a policy of other observations or actions than the task's: InputError."""
    require_width(path, width, obs_dim)
    if actions != len(bounds.low):
        raise InputError(f"{path} gives {actions} actions", f"the task has {len(bounds.low)}")


def _matches(pattern: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(pattern.replace("#", r"(?P<number>0|[1-9]\d{0,3})"), name)


def _numbers(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters in float32, those of no policy refused, as `read_network` says."""
    numbers = dict[str, Tensor]()
    for name, value in state.items():
        if re.search(r"(^|[._])weight_(ih|hh)", name):
            raise InputError(f"{path} holds '{name}': a recurrent policy", MEMORYLESS)
        if name.endswith("normalizer.count"):
            # how many observations a normaliser has seen
            continue
        if value.dtype not in _NUMBERS:
            remedy = "a policy's weights are float16, bfloat16, float32 or float64"
            raise InputError(f"{path}: '{name}' holds {str(value.dtype).removeprefix('torch.')}", remedy)
        numbers[name] = value.float()
        if not bool(numbers[name].isfinite().all()):
            raise DamagedFileError(f"{path} holds NaN or infinite values in '{name}'")
    return numbers


def read_network(path: Path, state: dict[str, Tensor]) -> Network:
    """Return the MLP in a state dict.

    Raises:
        DamagedFileError: NaN; InputError: a name, type or shape is not accounted for, where a guess would be
            another policy; a recurrent one is called so.
    """
    left = _numbers(path, state)
    signed = (layout for layout in _LAYOUTS if any(_matches(layout.sign, name) for name in left))
    layout = next(signed, _LAYOUTS[-1])
    left = {name: value for name, value in left.items() if not _matches(layout.idle, name)}

    def take(pattern: str) -> Tensor | None:
        found = next((name for name in left if _matches(pattern, name)), None)
        return None if found is None else left.pop(found)

    std, log_std = take(layout.spread), take(layout.log_spread)
    std = std if log_std is None else log_std.exp()
    mean, _, scale = (take(layout.normaliser + part) for part in ("_mean", "_var", "_std"))
    reach, center = take("action_scale"), take("action_bias")
    chain = list[re.Match[str]]()
    for pattern in layout.chain:
        stems = [name.removesuffix(".weight") for name in left if name.endswith(".weight")]
        found = [match for stem in stems if (match := _matches(pattern, stem))]
        # of several networks beside each other the rest is left over, and refused
        found = [match for match in found if match[0].rpartition(".")[0] == found[0][0].rpartition(".")[0]]
        chain += sorted(found, key=lambda match: int(match.groupdict().get("number") or 0))
    stems = [match[0] for match in chain]
    weights = [left.pop(f"{stem}.weight") for stem in stems]
    layers = [
        Linear(weight, left.pop(f"{stem}.bias", torch.zeros(weight.shape[:1])))
        for stem, weight in zip(stems, weights, strict=True)
    ]
    fits = are_chained(layers) and (mean is None) == (scale is None) and (reach is None) == (center is None)
    if fits:
        width, features, act_dim = layers[0].weight.shape[1], layers[-1].weight.shape[1], len(layers[-1].bias)
        if std is not None and std.dim() == 2 and std.numel() != act_dim and len(std) == features:
            # that of state-dependent exploration, which is one a feature
            std = None
        sizes = (mean, width), (scale, width), (reach, act_dim), (center, act_dim), (std, act_dim)
        fits = all(part is None or part.numel() == size for part, size in sizes)
    if left or not fits:
        what = f"'{next(iter(left))}' among them" if left else "their shapes do not follow each other"
        remedy = "a TorchScript or ONNX file of the same policy needs no names"
        raise InputError(f"{path}: its names are not those of an MLP that is understood ({what})", remedy)
    if mean is not None and scale is not None:
        shift, share = mean.flatten(), 1 / (scale.flatten() + _RSL_EPSILON)
        weight = layers[0].weight * share
        layers[0] = Linear(weight, layers[0].bias - weight @ shift)
    scaled = None
    if reach is not None and center is not None:
        scaled = (center - reach).flatten(), (center + reach).flatten()
    clipped = layout is _SAC and stems[-1].endswith("mu.0")
    return Network(layers, None if std is None else std.flatten(), scaled, layout, clipped)
