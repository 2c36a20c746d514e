"""The algorithm variants: one row each (the paper's Algorithms 2 and 6, its removals, and ours)."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """Which data are attacked where, and which terms of the robust M-step are on.

    Args:
        name: how pipelines and commands call it.
        summary: one line for a reader.
        vanilla: the M-step's benign terms (Eq. 7).
        robust_mle: the likelihood under attack (Eq. 8's objective).
        robust_kl: the KL bound under attack (Eq. 8's constraint).
        long_horizon: the cost critic's TD target takes a' from pi(.|nu(s')).
    """

    name: str
    summary: str
    vanilla: bool = True
    robust_mle: bool = False
    robust_kl: bool = False
    long_horizon: bool = False

    @property
    def adversarial(self) -> bool:
        """Whether any part of training needs the adversary."""
        return self.robust_mle or self.robust_kl or self.long_horizon


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("safer", "the paper's method: vanilla and robust M-step", robust_mle=True, robust_kl=True),
        Variant(
            "safer-long",
            "safer, mild, with a cost critic that expects the adversary at every later step",
            robust_mle=True,
            robust_kl=True,
            long_horizon=True,
        ),
        Variant("cvpo", "vanilla: no adversary anywhere"),
        Variant("safer-no-vm", "safer without the vanilla M-step", False, robust_mle=True, robust_kl=True),
        Variant("safer-no-kl", "safer without the KL bound under attack", robust_mle=True),
        Variant("safer-no-mle", "safer without the likelihood under attack", robust_kl=True),
    )
}
