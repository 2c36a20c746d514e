"""The attacks: one row each. What they are made of is in harden/attacks/."""

from __future__ import annotations

from typing import Literal, NamedTuple

from harden.errors import InputError, known_names


class Attack(NamedTuple):
    """One attack: noise, the ascent of an objective, or the best of other attacks.

    Args:
        name: how commands call it.
        summary: one line for a reader.
        objective: what it maximises, state by state: a function in harden/attacks/objectives.py.
        noise: what draws its perturbations where it has no objective: a function in harden/attacks/ball.py.
        critics: whose critics it needs: the policy's own, independently trained ones, those of an adversary
            that learned to plan, or none.
        style: its own way to search, as evaluation files call it; unset, it climbs in the style asked.
        fresh_start: no gradient at the clean observation, so that every style draws a start.
        gated: it leaves a state alone whose clean Q_c is below a threshold.
        plays: it plays an adversary that was found beforehand.
        candidates: names of the attacks of which it takes the best by its objective.
        aim: what it should raise or lower in an episode, with the sign; checks compare it with noise by this.
    """

    name: str
    summary: str
    objective: str | None = None
    noise: str | None = None
    critics: Literal["own", "independent", "learned"] | None = None
    style: str | None = None
    fresh_start: bool = False
    gated: bool = False
    plays: bool = False
    candidates: tuple[str, ...] = ()
    aim: tuple[Literal["cost", "reward"], int] | None = None

    @property
    def climbs(self) -> bool:
        """Whether it follows a gradient, or takes the best of some that do."""
        return self.style is None


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("random", "uniform noise in the ball", noise="sample", style="uniform"),
        Attack(
            "gaussian",
            "Gaussian noise of deviation epsilon, projected onto the ball",
            noise="sample_gaussian",
            style="gaussian",
        ),
        Attack("mc", "maximum cost: ascends Q_c", "max_cost", critics="own", aim=("cost", 1)),
        Attack("mr", "maximum reward: ascends Q_r", "max_reward", critics="own", aim=("reward", 1)),
        Attack(
            "mad",
            "maximal action difference: ascends KL(pi(.|s) || pi(.|nu(s)))",
            "action_difference",
            fresh_start=True,
        ),
        Attack(
            "amad",
            "adaptive mad: only in the states with the highest Q_c",
            "action_difference",
            critics="own",
            fresh_start=True,
            gated=True,
        ),
        Attack(
            "min-reward",
            "minimum reward: descends Q_r",
            "min_reward",
            critics="own",
            aim=("reward", -1),
        ),
        Attack(
            "black-box",
            "maximum cost without gradients: a search that asks for values of Q_c",
            "max_cost",
            critics="own",
            style="evolution",
            aim=("cost", 1),
        ),
        Attack(
            "critic-free",
            "maximum cost without critics: a linear adversary, chosen by the simulator's cost of whole "
            "episodes",
            plays=True,
            style="episodes",
            aim=("cost", 1),
        ),
        Attack(
            "learned",
            "an adversary trained to maximise cost that plans: mc on Q_c of the future under its own attack",
            "max_cost",
            critics="learned",
            aim=("cost", 1),
        ),
        Attack(
            "mc-independent",
            "mc on critics trained independently of the policy's own",
            "max_cost",
            critics="independent",
            aim=("cost", 1),
        ),
        Attack(
            "mr-independent",
            "mr on critics trained independently of the policy's own",
            "max_reward",
            critics="independent",
            aim=("reward", 1),
        ),
        Attack(
            "combined",
            "state by state the one with the highest Q_c of: both noises, mc, mr, mad, min-reward, black-box",
            "max_cost",
            critics="own",
            candidates=("random", "gaussian", "mc", "mr", "mad", "min-reward", "black-box"),
            aim=("cost", 1),
        ),
    )
}

NATURAL, WORST = "natural", "worst"
NAMES = {
    NATURAL: "no attack",
    **{row.name: row.summary for row in ATTACKS.values()},
    WORST: "for each episode seed the costliest of the attacks run beside it, natural among them",
}


def parse_attacks(names: str) -> list[str]:
    """Return the attacks meant by "mc,mr" or "all": natural first and always, worst last.

    Raises:
        InputError: an unknown name, or worst with no attack to be the worst of.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in wanted:
        wanted = list(NAMES)
    for name in wanted:
        if name not in NAMES:
            raise InputError(f"unknown attack '{name}'", known_names(name, [*NAMES, "all"]))
    attacks = list(dict.fromkeys(name for name in wanted if name in ATTACKS))
    if WORST in wanted and not attacks:
        raise InputError("'worst' is taken over the attacks run beside it", "name some, such as mc,mr,worst")
    return [NATURAL, *attacks, *([WORST] if WORST in wanted else [])]
