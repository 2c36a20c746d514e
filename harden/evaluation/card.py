"""A model card: what a policy is for, learned from, withstands and lacks, by what is stored of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from harden.config.attacks import ATTACKS
from harden.config.variants import VARIANTS
from harden.errors import InputError
from harden.evaluation.checks import strongest
from harden.evaluation.reading import load_curve, load_evaluation, run_files
from harden.evaluation.report import setting
from harden.evaluation.threat import threat
from harden.evaluation.verdict import verdict
from harden.nets.saved import load_policy
from harden.storage.files import write_text

CARD = "card.md"


def has_card(manifest: dict[str, Any]) -> bool:
    """Return whether a manifest says which pipeline made its policy: a clone's and a brought one's do not."""
    return manifest.get("variant") in VARIANTS and isinstance(manifest.get("config"), dict)


def write_card(path: Path) -> Path:
    """Write the card of a run's policy, or of a policy folder's, into that folder; return where.

    Args:
        path: a run's folder or name, or a policy folder; an evaluation there counts if it is of this policy.

    Raises:
        MissingInputError, DamagedFileError: no policy is there, or a file is not what its name promises.
        InputError: no pipeline made the policy. StorageError: the card can't be written.
    """
    stored, *more = run_files(path)
    folder = stored.parent if more else path
    of_run = folder / "policy"
    manifest = load_policy(of_run if of_run.is_dir() else folder).manifest
    if not has_card(manifest):
        raise InputError(f"{folder} does not say which pipeline made it", "name a run, or a policy of one")
    evaluation = load_evaluation(stored) if stored.is_file() else None
    if evaluation and evaluation["policy"].get("policy_digest") != manifest["policy_digest"]:
        evaluation = None
    steps = [load_curve(file)["env_steps"][-1] for file in more if file.is_file()]
    lines = list(_card(manifest, evaluation, *steps))
    # the rows of a list or a table stand together, all else apart
    gaps = ("" if a[:1] == b[:1] and b[:1] in "-|" else "\n" for a, b in pairwise([*lines, ""]))
    text = "".join(f"{line}\n{gap}" for line, gap in zip(lines, gaps, strict=True))
    write_text(folder / CARD, text.rstrip() + "\n")
    return folder / CARD


def _card(manifest: dict[str, Any], evaluation: dict[str, Any] | None, steps: float = 0) -> Iterator[str]:
    variant, sizes, task = VARIANTS[manifest["variant"]], manifest["policy"], manifest["task"]
    yield f"# Model card: {variant.name} on {task}"
    yield f"Made by `harden policy card` from what is stored; policy `{manifest['policy_digest'][:16]}`."
    yield "## What it is for"
    limit = f" that may cost {evaluation['cost_limit']:g}" if evaluation else ""
    yield (
        f"It decides the {sizes['act_dim']} numbers of an action of {task} "
        f"({manifest['env_id'] or 'no simulation'}) by the {sizes['obs_dim']} of one observation, in "
        f"episodes of {manifest['horizon']} steps{limit}."
    )
    hardened = "It is meant to stay within its cost limit while its observations are attacked"
    vanilla = "It is what hardened policies are measured against, for no robot whose sensors may err"
    yield f"{hardened if variant.adversarial else vanilla}. `{variant.name}`: {variant.summary}."
    yield "## What it was trained on"
    if offline := manifest.get("offline"):
        yield f"- stored logs alone: {offline['transitions']:,} transitions, digest `{offline['data'][:16]}`"
    else:
        kind = "attacked" if variant.collects_under_attack else "benign"
        yield f"- {kind} roll-outs of its own" + (f": {steps:,.0f} steps of simulation" if steps else "")
    if given := (manifest.get("origin") or {}).get("policy_digest"):
        yield f"- begun from a given policy, `{given[:16]}`"
    if fitted := manifest.get("refitted_critics"):
        yield f"- its critics were fitted to it afterwards, in {fitted['episodes']} benign episodes"
    yield f"- published: {manifest.get('kept', 'as it was fitted')}; seed {manifest['config']['seed']}"
    yield "- with " + ", ".join(f"{name} {value}" for name, value in manifest["versions"].items())
    yield "## Threat model"
    yield "- what is moved: what the policy observes, at every step of an episode, and nothing else"
    told = threat(evaluation) if evaluation else None
    yield from (f"- {name}: {value}" for name, value in (told["facts"] if told else {}).items())
    yield "## Numbers"
    limits = [
        "one task, in one simulator or one set of logs: nothing here was measured on a robot",
        "an attack that finds nothing proves nothing: a stronger one may find something",
        *manifest.get("ending", {}).get("warnings", ()),
    ]
    if evaluation is None:
        yield "None yet: `harden evaluate` makes them."
    else:
        yield f"**{verdict(evaluation)['headline']}.**"
        yield "| attack | reward | cost | 95 % interval of the mean cost | episodes over the limit |"
        yield "|---|---|---|---|---|"
        for row in strongest(evaluation["results"]):
            cost, (low, high), over = row["cost"]["mean"], row["cost"]["ci95"], 100 * row["violation_rate"]
            name, reward = f"{row['attack']} {setting(row)}".strip(), row["reward"]["mean"]
            yield f"| {name} | {reward:.1f} | {cost:.2f} | {low:.2f} to {high:.2f} | {over:.0f} % |"
        yield f"Means over {evaluation['episodes']} episodes, the same starts for each attack."
        limits += [f"not shown, {lack}" for lack in verdict(evaluation)["lacks"]]
        limits += [f"{w['check']}: {w['message']}" for w in evaluation.get("warnings", ())]
        tried = {row["attack"] for row in evaluation["results"]}
        missing = ", ".join(name for name in ATTACKS if name not in tried)
        limits += [f"attacks that were not tried: {missing}"] * bool(missing)
    yield "## Limits"
    yield from (f"- {limit}" for limit in limits)
