"""Stages `samples` and `search`: best-of-N and beam search on held-out problems."""

import dataclasses
import functools

import numpy as np

from pav_jax import labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response
from pav_jax.pipeline import beams as beams_lib
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.search_files import Searched
from pav_jax.pipeline.shards import in_shards, once
from pav_jax.policy import load_policy
from pav_jax.scores import score_outcomes, score_responses
from pav_jax.search.beam import Scorer, SearchResult
from pav_jax.search.oracle_scorer import Oracle, OracleScorer
from pav_jax.search.pick import PICKS, aggregated
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.storage import artifacts, records
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier

_SHARD = 80  # problems


def run_samples(context: StageContext) -> None:
    """Responses to the test problems, scored by both verifiers; and greedy ones."""
    config = context.config
    problems = Problems.load(config, context.input("data"), "test")
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)

    def work(part, path, ledger, advance):
        draw = functools.partial(
            labels.sample_responses,
            policy,
            problems,
            part,
            seed=derive(config.seed, Stream.SAMPLES),
            profile=context.profile,
        )
        count = config.search.samples
        responses = draw(
            count=count,
            sampling=labels.sampling_for(
                problems, config.search.temperature, branches=count
            ),
            ledger=ledger,
        )
        greedy = draw(
            count=1,
            sampling=labels.sampling_for(problems, 0.0, branches=1),
            ledger=Ledger(),  # for comparison only
        )
        arrays = {
            "correct": np.array([r.correct for r in responses]),
            "length": np.array([len(r.tokens) for r in responses]),
            **_scores(context, problems, responses, ledger),
        }
        shape = (len(part), count)
        arrays = {name: array.reshape(shape) for name, array in arrays.items()}
        arrays["prompt_length"] = np.array([len(problems.prompts[i]) for i in part])
        arrays["greedy"] = np.array([r.correct for r in greedy])
        arrays["greedy_length"] = np.array([len(r.tokens) for r in greedy])
        artifacts.write_arrays(path, arrays)
        answers = np.array(problems.answers(responses), object).reshape(shape)
        artifacts.write_json(path.with_suffix(".answers.json"), answers.tolist())
        for _ in part:
            advance()

    in_shards(context, range(len(problems)), _SHARD, "problem", work)


def _scores(
    context: StageContext,
    problems: Problems,
    responses: list[Response],
    ledger: Ledger,
) -> dict[str, np.ndarray]:
    """`prm`, `orm`, and the PRM's scores by `AGGREGATED`, float `[N]` each.

    The verifiers are read one after the other: the memory is the grid's until here.
    """
    architecture = problems.architecture
    ends = [labels.step_ends(r.tokens, problems.is_step_end) for r in responses]
    of_steps = {
        name: score_responses(
            load_verifier(context.input(name), architecture, problems.dtype),
            responses,
            ends,
            architecture=architecture,
            ledger=ledger,
        )
        for name in ("prm", "orm")
    }
    last = {name: np.array([q[-1] for q in found]) for name, found in of_steps.items()}
    return last | aggregated(of_steps["prm"])


def run_search(context: StageContext) -> None:
    """Beam search: what is chosen is chosen on validation problems, then every N on
    test."""
    search = context.config.search
    searcher = _Searcher.load(context)
    validation = searcher.test.split("validation")
    by_q = searcher.run(validation, f"validation-{search.alpha_beams}-q")
    cells = {
        (alpha, k): searcher.run(
            validation,
            f"validation-{search.alpha_beams}-alpha-{alpha:g}-k-{k}",
            alpha=alpha,
            prover_k=k,
        )
        for k in search.prover_ks
        for alpha in search.alphas
        if alpha > 0  # α = 0 is its own method, so it is not a choice here
    }
    # The first of those that are equally good.
    rule = max(PICKS, key=lambda rule: by_q.outcomes(rule).mean())
    chosen = max(
        ((*cell, rule) for cell in cells for rule in PICKS),
        key=lambda choice: cells[choice[:2]].outcomes(choice[2]).mean(),
    )
    best = dict(alpha=chosen[0], prover_k=chosen[1])
    for beams in search.beams:
        searcher.run(searcher.test, f"beam_q-{beams}", beams=beams)
        searcher.run(searcher.test, f"beam_pav-{beams}", beams=beams, **best)
    picks = {"beam_q": rule, "beam_pav": chosen[2], "beam_oracle": "prm"}
    if "subtree" in search:
        picks["beam_diverse"] = chosen[2]
        _search_diverse(searcher, **best)
    if "bok" in search:
        picks |= dict.fromkeys((f"beam_bo{k}" for k in search.bok.ks), chosen[2])
        _search_every_k(searcher)
    provers = {}
    for stage in context.inputs:
        if stage.startswith("prm-"):
            name = stage.removeprefix("prm-")
            provers[name], of_prover = _search_by_prover(searcher, validation, name)
            picks |= of_prover
    oracle = _fit_oracle(context, searcher.test.split("labels"))
    if oracle is not None:
        by = OracleScorer(
            lambda i, tokens: oracle.value(searcher.test.facts(i, tokens))
        )
        for beams in search.beams:
            searcher.run(searcher.test, f"beam_oracle-{beams}", beams=beams, scorer=by)
    chosen_on_validation = {**best, "pick": picks, "provers": provers}
    artifacts.write_json(context.directory / "search.json", chosen_on_validation)


def _search_diverse(searcher: "_Searcher", *, alpha: float, prover_k: int) -> None:
    """Beams in subtrees of `config.search.subtree` states; each keeps its own best."""
    search = searcher.context.config.search
    for beams in search.beams:
        if beams > search.subtree and beams % search.subtree == 0:
            searcher.run(
                searcher.test,
                f"beam_diverse-{beams}",
                beams=beams,
                alpha=alpha,
                prover_k=prover_k,
                subtrees=beams // search.subtree,
            )


def _search_every_k(searcher: "_Searcher") -> None:
    """Beams by `Q^π + αA^μ` of each BoK(π) of `config.search.bok` (Fig. 5b)."""
    search = searcher.context.config.search
    for k in search.bok.ks:
        for beams in search.beams:
            searcher.run(
                searcher.test,
                f"beam_bo{k}-{beams}",
                beams=beams,
                alpha=search.bok.alpha,
                prover_k=k,
            )


def _search_by_prover(
    searcher: "_Searcher", validation: Problems, name: str
) -> tuple[float, dict[str, str]]:
    """Beams by `Q^π + αA^μ` of a prover that is another policy, and by `Q^μ` alone.

    Returns:
      The α, and the pick of each of the two, which are best on validation problems.
    """
    search = searcher.context.config.search
    prover = searcher.read_verifier(f"prm-{name}")
    prefix = f"validation-{search.alpha_beams}-{name}"
    alone = searcher.run(validation, f"{prefix}-q", scorer=prover)
    cells = {
        alpha: searcher.run(
            validation, f"{prefix}-alpha-{alpha:g}", alpha=alpha, prover_scorer=prover
        )
        for alpha in search.alphas
        if alpha > 0
    }
    rule = max(PICKS, key=lambda rule: alone.outcomes(rule).mean())
    alpha, with_policy = max(
        ((alpha, rule) for alpha in cells for rule in PICKS),
        key=lambda choice: cells[choice[0]].outcomes(choice[1]).mean(),
    )
    by_q, by_pav = f"beam_q_{name}", f"beam_pav_{name}"
    for beams in search.beams:
        run = functools.partial(searcher.run, searcher.test, beams=beams)
        run(f"{by_q}-{beams}", scorer=prover)
        run(f"{by_pav}-{beams}", alpha=alpha, prover_scorer=prover)
    return alpha, {by_q: rule, by_pav: with_policy}


@dataclasses.dataclass(frozen=True)
class _Searcher:
    """What every search of the stage needs.

    Attributes:
      context: of the stage.
      test: the test problems.
      policy: parameters of the policy.
      scorer: the verifier of steps.
    """

    context: StageContext
    test: Problems
    policy: Params
    scorer: VerifierScorer

    @classmethod
    def load(cls, context: StageContext) -> "_Searcher":
        test = Problems.load(context.config, context.input("data"), "test")
        model = (test.architecture, test.dtype)
        return cls(
            context,
            test,
            load_policy(context.input("sft"), *model),
            beams_lib.read_scorer(context, test, "prm"),
        )

    def read_verifier(self, stage: str) -> VerifierScorer:
        """The verifier that a stage trained."""
        return beams_lib.read_scorer(self.context, self.test, stage)

    def run(
        self,
        problems: Problems,
        name: str,
        *,
        beams: int | None = None,
        alpha: float = 0.0,
        prover_k: int = 1,
        scorer: Scorer | None = None,
        prover_scorer: Scorer | None = None,
        subtrees: int = 1,
    ) -> Searched:
        """Searches all problems, unless the file of this name is already there.

        Args:
          problems: what to solve.
          name: of the file.
          beams: N; `config.search.alpha_beams` by default.
          alpha: weight of progress; without it `prover_k` plays no part.
          prover_k: the prover is BoK(π).
          scorer: the verifier of steps by default.
          prover_scorer: that of a prover that is another policy.
          subtrees: parts of the beam, each of which keeps its own best.
        """
        config = self.context.config

        def make() -> list[dict]:
            found = beams_lib.search(
                self.context,
                problems,
                range(len(problems)),
                self.policy,
                scorer or self.scorer,
                beams=beams or config.search.alpha_beams,
                seed=derive(config.seed, Stream.BEAMS),
                alpha=alpha,
                prover_k=prover_k,
                prover_scorer=prover_scorer,
                subtrees=subtrees,
            )
            bar = progress_bar(
                iterable=found, total=len(problems), unit="problem", desc=name
            )
            return self._rows(problems, list(bar))

        return Searched(once(self.context.directory / f"{name}.json", make))

    def _rows(self, problems: Problems, found: list[SearchResult]) -> list[dict]:
        """The rows of `Searched`.

        The ORM is read for them alone: the memory is the search's until here.
        """
        everything = range(len(problems))
        orm = self.context.input("orm")
        values = score_outcomes(
            load_verifier(orm, problems.architecture, problems.dtype),
            beams_lib.responses_of(problems, everything, found),
            architecture=problems.architecture,
            ledger=Ledger(),  # a search pays for it if its pick uses it
        ).tolist()
        rows, first = beams_lib.rows(problems, everything, found), 0
        for row, prompt in zip(rows, problems.prompts, strict=True):
            mine = slice(first, first := first + len(row["responses"]))
            distinct = set(map(tuple, row["responses"]))
            row["orm"] = values[mine]
            row["orm_tokens"] = len(prompt) + sum(map(len, distinct))
        return rows


def _fit_oracle(context: StageContext, problems: Problems) -> Oracle | None:
    """The oracle of the labelled training rollouts; None without these, or without a
    step checker."""
    if "rollouts" not in context.inputs:
        return None
    responses, labels_of_each = records.read_labelled_rollouts(
        context.input("rollouts"),
        context.input("labels"),
        context.config.rollouts.n_cov,
    )
    if problems.facts(responses[0].problem, ()) is None:
        return None
    return Oracle(
        (problems.facts(response.problem, response.tokens[:end]), correct, count)
        for response, counts in zip(responses, labels_of_each, strict=True)
        for end, correct, count in zip(
            counts.ends.tolist(),
            counts.correct.tolist(),
            counts.count.tolist(),
            strict=True,
        )
    )
