"""Problems that the SFT policy never solves, and who solves them (Fig. 8b).

Which they are is chosen by draws of the SFT policy that nobody is measured on. Every
policy then has N samples, of which the verifier of steps picks one, and a beam of N,
which the same verifier guides by `Q^π`. N of both is the paper's small budget.

Shape letters: P problems, S samples.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.seeds import Stream, derive
from pav_jax.metrics import best_of_n
from pav_jax.pipeline import beams as beams_lib
from pav_jax.pipeline.curves import selection_tokens
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.search_files import Searched
from pav_jax.pipeline.shards import once
from pav_jax.policy import load_policy
from pav_jax.search.beam import Scorer
from pav_jax.tasks.problems import Problems

_PICK = "prm"  # the final pick of beams is the verifier's, as of the samples
_KINDS = ("decoded", "prefilled", "scored")  # as in `Searched.tokens`
Beams = Mapping[int, Searched]  # of one policy, by N


def never_solved(correct: np.ndarray) -> np.ndarray:
    """The places of the problems without a right response, int `[U]`.

    Args:
      correct: bool `[P, S]`, of the draws that choose.
    """
    return np.flatnonzero(~correct.any(axis=1))


def search_all(
    context: StageContext,
    problems: Problems,
    policies: Sequence[str],
    hard: Sequence[int],
) -> dict[str, Beams]:
    """Beams of `config.rl.final.beams` by every policy; nothing without these.

    Args:
      context: of stage `improvement`; what its folder has is not searched again.
      problems: those measured.
      policies: stages.
      hard: of `never_solved`.
    """
    sizes = context.config.rl.final.get("beams", ())
    if not sizes or not len(hard):
        return {}
    scorer = beams_lib.read_scorer(context, problems, "prm")
    bar = progress_bar(iterable=policies, unit="policy", desc="beams")
    return {name: _search(context, problems, scorer, name, hard, sizes) for name in bar}


def _search(
    context: StageContext,
    problems: Problems,
    scorer: Scorer,
    name: str,
    hard: Sequence[int],
    sizes: Sequence[int],
) -> Beams:
    """As `search_all`, by one policy."""

    @functools.cache
    def policy():
        stage = context.input(name)
        return load_policy(stage, problems.architecture, problems.dtype)

    def make(size: int) -> list[dict[str, Any]]:
        found = beams_lib.search(
            context,
            problems,
            hard,
            policy(),
            scorer,
            beams=size,
            # Not that of the draws that chose these problems: a policy near SFT would
            # go on from the same numbers, and be wrong by the choice alone.
            seed=derive(context.config.seed, Stream.RL_BEAMS),
        )
        return beams_lib.rows(problems, hard, list(found))

    return {
        size: Searched(
            once(
                context.directory / f"{name}-beams-{size}.json",
                functools.partial(make, size),
            )
        )
        for size in sizes
    }


def ledger_of(beams: Mapping[str, Beams]) -> Ledger:
    """What `search_all` has paid."""
    total = Ledger()
    for by_size in beams.values():
        for found in by_size.values():
            paid = found.tokens(_PICK).sum(axis=0)
            total += Ledger(**dict(zip(_KINDS, map(int, paid), strict=True)))
    return total


def compared(
    choice: Mapping[str, np.ndarray],
    methods: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    beams: Mapping[str, Sequence[Beams]],
    prompts: np.ndarray,
    ns: Sequence[int],
) -> dict[str, Any]:
    """Who solves the problems that no response of the choice does, and at what cost.

    Args:
      choice: `correct` `[P, S]` of the draws that choose.
      methods: `correct`, `length` and `prm` `[P, S]`, of each seed's policy.
      beams: of the same policies, on the problems that are chosen; may be empty.
      prompts: tokens of each problem's prompt, `[P]`.
      ns: of samples.

    Returns:
      `problems` that are chosen, by so many `samples`; `best_of` and `beam`, by method
      and N, the fraction of them that it solves; `best_of_tokens` and `beam_tokens`,
      the tokens of a problem: decoded, prefilled and scored. All are means over seeds
      and problems.
    """
    hard = never_solved(choice["correct"])
    if not len(hard):
        return {"problems": 0}
    found: dict[str, Any] = {
        "problems": len(hard),
        "samples": choice["correct"].shape[1],
        "best_of": {},
        "best_of_tokens": {},
    }
    for method, policies in methods.items():
        cut = [{k: s[k][hard] for k in ("correct", "length", "prm")} for s in policies]
        found["best_of"][method] = {
            str(n): _mean([best_of_n(s["prm"], s["correct"], n) for s in cut])
            for n in ns
        }
        lengths = [s["length"].mean(axis=1) for s in cut]
        found["best_of_tokens"][method] = {
            str(n): _tokens([selection_tokens(x, prompts[hard], n) for x in lengths])
            for n in ns
        }
    if beams:
        found |= {"beam": {}, "beam_tokens": {}}
    for method, policies in beams.items():
        sizes = policies[0].keys()
        found["beam"][method] = {
            str(n): _mean([by_size[n].outcomes(_PICK) for by_size in policies])
            for n in sizes
        }
        found["beam_tokens"][method] = {
            str(n): _tokens([by_size[n].tokens(_PICK) for by_size in policies])
            for n in sizes
        }
    return found


def _mean(values: Sequence[np.ndarray]) -> float:
    """Over seeds and problems; values are `[U]` for each seed."""
    return float(np.mean(values))


def _tokens(tokens: Sequence[np.ndarray]) -> dict[str, float]:
    """Of a problem, by kind; tokens are `[U, 3]` for each seed."""
    means = np.mean(tokens, axis=(0, 1)).tolist()
    return dict(zip(_KINDS, means, strict=True))
