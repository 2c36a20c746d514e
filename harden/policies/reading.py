"""What a policy file does not say of itself, and whoever names it may: one place for all commands."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("onnx", "torchscript", "safetensors", "sb3")
# the classes of torch.nn, in lower case
ACTIVATIONS = ("relu", "tanh", "elu", "silu", "selu", "gelu", "leakyrelu", "sigmoid")
SQUASHES = ("tanh", "none")
SPREADS = ("std", "log-std", "none")


class Reading(NamedTuple):
    """What a foreign file does not say of itself; None where its user did not say it either.

    Args:
        kind: one of KINDS; by the file's suffix where None.
        output: the name of the output that is the action, of a file with several.
        activation, squash: of the hidden layers and of the last of a state dict; by whose names they are.
        spread: what a second output is.
    """

    kind: str | None = None
    output: str | None = None
    activation: str | None = None
    squash: str | None = None
    spread: str | None = None
