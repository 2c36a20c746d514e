"""Our own policy made of the layers in somebody else's file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harden.nets import GaussianPolicy

# a letter each, so that a pattern tells whether a graph holds our architecture and nothing else
_LETTERS = {"linear": "L", "product": "L", "add": "A", "relu": "R", "tanh": "T"}
_LETTERS |= {"mul": "M", "minimum": "C", "maximum": "C"}
_OURS = re.compile("(LA?R)+LA?T[AMC]*")
_OF_A_TAIL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
}

# operation, names of its inputs, name of its output; see `adopt_weights`
Node = tuple[str, Sequence[str], str]


class Bounds(NamedTuple):
    """What our architecture needs beside weights.

    Args:
        low, high: of the action space, (act_dim,).
        init_std, min_std, max_std: spread where the file brings none, floor and ceiling; shares of half the
            action range.
    """

    low: Tensor
    high: Tensor
    init_std: float
    min_std: float
    max_std: float


class Linear(NamedTuple):
    """One linear layer: weight (out, in) and bias (out,)."""

    weight: Tensor
    bias: Tensor


def set_spread(policy: GaussianPolicy, share: Tensor) -> bool:
    """Give a policy one spread for all observations.

    Args:
        share: of half the action range, (act_dim,); brought inside the policy's floor and ceiling.

    Returns:
        Whether the spread asked for was inside them.
    """
    reach = policy.max_std - policy.min_std
    inside = share.clamp(policy.min_std + 1e-3 * reach, policy.max_std - 1e-3 * reach)
    part = (inside - policy.min_std) / reach
    with torch.no_grad():
        policy.std_head.weight.zero_()
        policy.std_head.bias.copy_((part / (1 - part)).log())
    return bool(((share >= policy.min_std) & (share <= policy.max_std)).all())


def make_policy(layers: Sequence[Linear], bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with these layers and the spread of the bounds, None where the shapes make no MLP."""
    act_dim = len(bounds.low)
    fan_in = [layer.weight.shape[1] for layer in layers]
    fan_out = [layer.weight.shape[0] for layer in layers]
    fits = all(layer.bias.shape == layer.weight.shape[:1] for layer in layers)
    if len(layers) < 2 or not fits or fan_out[:-1] != fan_in[1:] or fan_out[-1] != act_dim:
        return None
    policy = GaussianPolicy(fan_in[0], act_dim, fan_out[:-1], **bounds._asdict())
    state = {f"trunk.{2 * i}": layer for i, layer in enumerate(layers[:-1])} | {"mean_head": layers[-1]}
    tensors = {f"{n}.{part}": getattr(layer, part) for n, layer in state.items() for part in Linear._fields}
    policy.load_state_dict(tensors, strict=False)
    set_spread(policy, torch.full((act_dim,), bounds.init_std))
    return policy.eval()


def adopt_weights(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], entry: str, result: str, bounds: Bounds
) -> GaussianPolicy | None:
    """Return our policy with a graph's weights, None where the graph holds anything that ours does not.

    Every node is accounted for: linear layers with ReLU between them, tanh, and arithmetic that brings its
    results from [-1, 1] to the action bounds.

    Args:
        nodes: all of a graph, in order: linear (input, weight (out, in), bias if any), product (the same with
            a weight (in, out)), add, mul, relu, tanh, minimum, maximum; another operation is none of ours.
        constants: tensors by name.
        entry, result: names of the observations and of the actions.
        bounds: of the action space, and of the spread.
    """
    value, operands = entry, []
    for operation, inputs, output in nodes:
        others = [constants[name] for name in inputs if name != value and name in constants]
        if len(others) != len(inputs) - 1 or (_LETTERS.get(operation) == "L" and inputs[0] != value):
            return None
        operands.append(others)
        value = output
    names = [operation for operation, _, _ in nodes]
    if value != result or not _OURS.fullmatch("".join(_LETTERS.get(name, "?") for name in names)):
        return None
    squash, layers = names.index("tanh"), list[Linear]()
    for name, others in zip(names[:squash], operands, strict=False):
        if _LETTERS[name] == "L":
            if others[0].dim() != 2:
                return None
            weight = others[0].T.contiguous() if name == "product" else others[0]
            layers.append(Linear(weight, *(others[1:] or [torch.zeros(len(weight))])))
        elif name == "add":
            layers[-1] = layers[-1]._replace(bias=layers[-1].bias + others[0])
    policy, tail = make_policy(layers, bounds), list(zip(names, operands, strict=True))[squash + 1 :]
    # each of them along the last axis
    shapes = [value.shape for _, others in tail for value in others]
    if (
        policy is None
        or len(shapes) != len(tail)
        or not all(s in ((), (1,), bounds.low.shape) for s in shapes)
    ):
        return None
    squashed = torch.linspace(-1, 1, 1001).unsqueeze(1)
    scaled = squashed.expand(-1, len(bounds.low))
    for name, (constant,) in tail:
        scaled = _OF_A_TAIL[name](scaled, constant)
    same = torch.allclose(scaled, policy.center + policy.half_range * squashed, rtol=1e-6, atol=1e-6)
    return policy if same else None
