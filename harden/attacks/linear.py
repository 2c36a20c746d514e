"""An adversary that knows no critic: a linear map of the observation, filled to the ball's faces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.attacks import ball
from harden.attacks.ball import Norm


class LinearAdversary(nn.Module):
    """nu(s) = s + epsilon clip(W z + b, -1, 1), with z the observation in units of its spread.

    Args:
        weights: (..., obs_dim, obs_dim + 1), W and b; several adversaries act each on its own row.
        centre, spread: (obs_dim,), mean and standard deviation of the states that the policy visits.
    """

    def __init__(self, weights: Tensor, centre: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.weights: Tensor
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("weights", weights)
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread.clamp_min(1e-6))

    def perturbation(self, obs: Tensor, radius: Tensor, norm: Norm) -> Tensor:
        """Return perturbations inside the ball.

        Args:
            obs: (B, obs_dim); B equals the number of adversaries where there are several.
            radius, norm: of the ball.
        """
        z = (obs - self.centre) / self.spread
        matrix, bias = self.weights[..., :-1], self.weights[..., -1]
        unit = (torch.matmul(matrix, z.unsqueeze(-1)).squeeze(-1) + bias).clamp(-1.0, 1.0)
        return ball.project(unit * radius, radius, norm)
