"""The algorithm variants: one row each (the paper's method, rivals and removals, and ours)."""

from __future__ import annotations

from typing import Literal, NamedTuple

# how a shard says that its observations were attacked while it was collected
MC_BEHAVIOUR = "mc"


class Variant(NamedTuple):
    """Which data are attacked where, and which terms of the M-step are on.

    Args:
        name: how pipelines and commands call it.
        summary: one line for a reader.
        behaviour: how it collects, where that is its own: policy-noise, policy-sample or mc; None leaves it
            to the pipeline.
        attack_replay: the MC adversary attacks each observation that is drawn from the replay.
        vanilla: the M-step's benign terms (Eq. 7).
        robust_mle: the likelihood under attack (Eq. 8's objective).
        robust_kl: the KL bound under attack (Eq. 8's constraint).
        long_horizon: the cost critic's TD target takes a' from pi(.|nu(s')).
        imagined: a world model imagines roll-outs under attack; the cost critic learns from them, and the
            E-step, whose targets the M-step fits, is solved in their states and at attacked inputs too.
        on_policy: PPO-Lagrangian in place of the E-step and M-step (Eq. 69, 70).
        smoothing: the adversary, mad or mc, whose KL an on-policy variant keeps small (Algorithm 4).
    """

    name: str
    summary: str
    behaviour: str | None = None
    attack_replay: bool = False
    vanilla: bool = True
    robust_mle: bool = False
    robust_kl: bool = False
    long_horizon: bool = False
    imagined: bool = False
    on_policy: bool = False
    smoothing: Literal["mad", "mc"] | None = None

    @property
    def robust(self) -> bool:
        """Whether the M-step has a term under attack."""
        return self.robust_mle or self.robust_kl

    @property
    def collects_under_attack(self) -> bool:
        """Whether it learns from attacked collections, and from nothing else."""
        return self.behaviour == MC_BEHAVIOUR

    @property
    def adversarial(self) -> bool:
        """Whether any part of training needs the adversary."""
        off_policy = self.robust or self.long_horizon or self.attack_replay
        return off_policy or self.collects_under_attack or self.smoothing is not None


def _ppol(
    name: str, summary: str, behaviour: str = "policy-sample", smoothing: Literal["mad", "mc"] | None = None
) -> Variant:
    """Return an on-policy row: it has no M-step, and acts with its own policy."""
    return Variant(name, summary, behaviour, vanilla=False, on_policy=True, smoothing=smoothing)


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
        Variant(
            "safer-model",
            "attacks imagined in a world model: particles at attacked inputs, weighed by the true state",
            long_horizon=True,
            imagined=True,
        ),
        Variant("cvpo", "vanilla: no adversary anywhere"),
        Variant("cvpo-random", "cvpo that collects under random noise", behaviour="policy-noise"),
        Variant("adv-cvpo", "cvpo that collects under the MC attack", behaviour=MC_BEHAVIOUR),
        Variant("adv-em-cvpo", "cvpo on benign data, attacked as they are replayed", attack_replay=True),
        Variant("safer-no-vm", "safer without Eq. 7", vanilla=False, robust_mle=True, robust_kl=True),
        Variant("safer-no-kl", "safer without the KL bound under attack", robust_mle=True),
        Variant("safer-no-mle", "safer without the likelihood under attack", robust_kl=True),
        _ppol("ppol", "PPO-Lagrangian with a PID multiplier, on-policy"),
        _ppol("sa-ppol", "ppol that is kept smooth against the MAD attack", smoothing="mad"),
        _ppol("sa-ppol-mc", "ppol that is kept smooth against the MC attack", smoothing="mc"),
        _ppol("adv-ppol", "ppol that collects under the MC attack", MC_BEHAVIOUR),
    )
}
