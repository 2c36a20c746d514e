"""Our own policy made of the weights in somebody else's file, where the file holds nothing more."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.nets import GaussianPolicy

# a copy that acts otherwise by more, in the action space's units, is another policy
TOLERANCE = 1e-5
# a letter for each operation, so that a pattern tells whether a graph holds our architecture and nothing else
_LETTERS = {"linear": "L", "product": "L", "add": "A", "relu": "R", "tanh": "T"}
_LETTERS |= {"mul": "M", "minimum": "C", "maximum": "C"}
_OUR_GRAPH = re.compile("(LA?R)+LA?T[AMC]*")
_SCALING = {function.__name__: function for function in (torch.add, torch.mul, torch.minimum, torch.maximum)}

# operation, names of its inputs, name of its output; see `adopt_weights`
Node = tuple[str, Sequence[str], str]


class Bounds(NamedTuple):
    """Lowest and highest action, (act_dim,) each; the spread where a file brings none, its floor and ceiling.

    Spreads are shares of half the action range.
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


def task_bounds(config: PipelineConfig) -> Bounds:
    """Return what the actions and the spread of a pipeline's policies keep within."""
    networks = config.networks
    low, high = (torch.tensor(bound) for bound in config.task_row.bounds)
    return Bounds(low, high, networks.init_std, networks.min_std, networks.max_std)


def set_spread(policy: GaussianPolicy, share: Tensor) -> bool:
    """Give a policy one spread for all observations, brought inside its floor and ceiling.

    Args:
        share: of half the action range, (act_dim,).

    Returns:
        Whether it was inside them.
    """
    reach = policy.max_std - policy.min_std
    inside = share.clamp(policy.min_std + 1e-3 * reach, policy.max_std - 1e-3 * reach)
    part = (inside - policy.min_std) / reach
    with torch.no_grad():
        policy.std_head.weight.zero_()
        policy.std_head.bias.copy_((part / (1 - part)).log())
    return bool(((share >= policy.min_std) & (share <= policy.max_std)).all())


def are_chained(layers: Sequence[Linear]) -> bool:
    """Return whether there are layers, each a matrix with a bias that takes what the one before it gives."""
    shaped = all(w.dim() == 2 and w.numel() and b.shape == w.shape[:1] for w, b in layers)
    follow = shaped and all(len(a.bias) == b.weight.shape[1] for a, b in itertools.pairwise(layers))
    return bool(layers) and follow


def make_policy(layers: Sequence[Linear], bounds: Bounds) -> GaussianPolicy | None:
    """Return our policy with these layers and the spread of the bounds, None where the shapes make no MLP."""
    act_dim = len(bounds.low)
    if len(layers) < 2 or not are_chained(layers) or len(layers[-1].bias) != act_dim:
        return None
    hidden = [len(layer.bias) for layer in layers[:-1]]
    policy = GaussianPolicy(layers[0].weight.shape[1], act_dim, hidden, **bounds._asdict())
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
    """
    value, names, operands = entry, list[str](), list[list[Tensor]]()
    for name, inputs, output in nodes:
        others = [constants[item] for item in inputs if item != value and item in constants]
        if len(others) != len(inputs) - 1 or (_LETTERS.get(name) == "L" and inputs[0] != value):
            return None
        names.append(name)
        operands.append(others)
        value = output
    if value != result or not _OUR_GRAPH.fullmatch("".join(_LETTERS.get(name, "?") for name in names)):
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
    policy = make_policy(layers, bounds)
    if policy is None:
        return None
    squashed = torch.linspace(-1, 1, 1001).unsqueeze(1)
    scaled = squashed.expand(-1, len(bounds.low))
    for name, others in zip(names[squash + 1 :], operands[squash + 1 :], strict=True):
        # one operand, along the last axis
        if len(others) != 1 or others[0].shape not in ((), (1,), bounds.low.shape):
            return None
        scaled = _SCALING[name](scaled, others[0])
    same = torch.allclose(scaled, policy.center + policy.half_range * squashed, rtol=1e-6, atol=1e-6)
    return policy if same else None
