"""A verifier that follows the policy in RL: trained further, on fresh rollouts.

A frozen verifier knows the responses of the policy that it was trained on. RL leaves
these behind, and moves towards responses that the verifier overrates.
"""

import functools

import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params
from pav_jax.distributed import collectives, sharding
from pav_jax.tasks.problems import Problems
from pav_jax.train.batches import Batches
from pav_jax.train.loop import run_steps
from pav_jax.train.step import init_state, make_optimizer, make_train_step


class Refresher:
    """Trains a verifier further.

    A refresh is part of one RL iteration, so it has no checkpoints of its own.

    Args:
      problems: of the fresh rollouts.
      settings: `config.rl.refresh`: the optimizer's, with `batch_size` and
        `language_weight`; `problems`, one response to each; `n_mc` continuations of
        each of its prefixes.
    """

    def __init__(self, problems: Problems, settings: ConfigDict):
        self._problems, self._settings = problems, settings
        self._optimizer = make_optimizer(settings)
        loss = functools.partial(
            verifier.verifier_loss,
            architecture=problems.architecture,
            language_weight=settings.language_weight,
        )
        self._train_step = make_train_step(loss, self._optimizer)

    def __call__(
        self, params: Params, policy: Params, *, seed: int, ledger: Ledger
    ) -> Params:
        """The verifier after training on rollouts of `policy`.

        Each process samples and labels a slice of the rollouts; they train together.

        Args:
          params: the verifier so far; donated.
          policy: whose `Q` it is to predict; on this process's own mesh.
          seed: of problems, draws and the order of rows.
          ledger: this process's counts are added to it.
        """
        settings = self._settings
        chosen = np.random.default_rng(seed).choice(
            len(self._problems), settings.problems, replace=False
        )
        chosen = chosen[collectives.process_slice(settings.problems)].tolist()
        with collectives.local_mesh():
            own = self._label(policy, chosen, seed, ledger)
        rows = collectives.all_gather_rows(own)
        batches = Batches(rows, batch_size=settings.batch_size, seed=seed)

        def step_fn(state, step):
            batch = batches(step)
            if collectives.is_primary():
                ledger.trained += int(np.count_nonzero(batch["tokens"]))
            return self._train_step(state, sharding.place_batch(batch))

        state = init_state(params, self._optimizer)
        return run_steps(state, step_fn, steps=settings.steps).params

    def _label(
        self, policy: Params, indices: list[int], seed: int, ledger: Ledger
    ) -> dict[str, np.ndarray]:
        """Training rows of a labelled rollout of each of some problems."""
        problems, settings = self._problems, self._settings
        limits = problems.config.limits
        responses = labels.sample_responses(
            policy,
            problems,
            indices,
            count=1,
            seed=derive(seed, Stream.REFRESH_RESPONSES),
            sampling=labels.sampling_for(problems, 1.0, branches=1),
            ledger=ledger,
        )
        labelled = labels.label_steps(
            policy,
            problems,
            responses,
            n_mc=settings.n_mc,
            seed=derive(seed, Stream.REFRESH_LABELS),
            sampling=labels.sampling_for_labels(problems, 1.0, n_mc=settings.n_mc),
            ledger=ledger,
        )
        steps = [verifier.labelled_steps(x) for x in labelled]
        rows = verifier.verifier_rows(responses, steps, balance=False)
        # Padded to the longest possible, so that it is compiled once.
        spare = limits.max_prompt_tokens + limits.max_tokens - rows["tokens"].shape[1]
        return {name: np.pad(x, ((0, 0), (0, spare))) for name, x in rows.items()}
