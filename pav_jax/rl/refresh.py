"""A verifier that follows the policy in RL: trained on, on fresh labelled rollouts.

A frozen verifier knows the responses of the policy that it was trained on. RL leaves
these, and leaves them for those that the verifier takes for better than they are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax import draws, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.distributed import collectives, mesh
from pav_jax.gemma.forward import Params
from pav_jax.tasks import problems as experiment
from pav_jax.train.batches import Batches
from pav_jax.train.step import init_state, make_optimizer, make_train_step
from pav_jax.verifier import VerifierParams


class Refresher:
    """Trains a verifier on, from where it is.

    Args:
      lab: the problems of fresh rollouts.
      settings: of the optimizer, with `batch_size` and `language_weight`; `problems`,
        one response to each; `n_mc` continuations of each of its prefixes.
    """

    def __init__(self, lab: experiment.Lab, settings: ConfigDict):
        self._lab, self._settings = lab, settings
        self._optimizer = make_optimizer(settings)
        loss = functools.partial(
            verifier.verifier_loss,
            config=lab.model,
            language_weight=settings.language_weight,
        )
        self._step = make_train_step(loss, self._optimizer)

    def __call__(
        self, params: VerifierParams, policy: Params, *, seed: int, ledger: Ledger
    ) -> VerifierParams:
        """The verifier after training on rollouts of `policy`.

        Processes share out the rollouts, and train together.

        Args:
          params: the verifier so far; stays usable.
          policy: whose `Q` it shall predict; on this process's own mesh.
          seed: names problems, draws and the order of rows.
          ledger: this process's counts are added to it.
        """
        settings = self._settings
        chosen = np.random.default_rng(seed).choice(
            len(self._lab.problems), settings.problems, replace=False
        )
        chosen = chosen[collectives.of(settings.problems)].tolist()
        with collectives.apart():
            own = self._label(policy, chosen, seed, ledger)
        rows = collectives.collect(own)
        batches = Batches(rows, batch_size=settings.batch_size, seed=seed)
        state = init_state(jax.tree.map(jnp.copy, params), self._optimizer)
        for step in range(settings.steps):
            batch = batches(step)
            if collectives.leads():
                ledger.trained += int(np.count_nonzero(batch["tokens"]))
            state, _ = self._step(state, mesh.place_batch(batch))
            jax.block_until_ready(state)  # many at once can block each other on CPUs
        return state.params

    def _label(
        self, policy: Params, problems: list[int], seed: int, ledger: Ledger
    ) -> dict[str, np.ndarray]:
        """Training rows of a labelled rollout of each of some problems."""
        lab, settings = self._lab, self._settings
        responses = draws.sample(
            policy,
            lab,
            problems,
            count=1,
            seed=draws.stream(seed, 0),
            sampling=lab.sampling(1.0, branches=1),
            ledger=ledger,
        )
        found = draws.label(
            policy,
            lab,
            responses,
            n_mc=settings.n_mc,
            seed=draws.stream(seed, 1),
            ledger=ledger,
        )
        steps = [list(zip(x.ends.tolist(), x.q.tolist(), strict=True)) for x in found]
        rows = verifier.verifier_rows(responses, steps, balance=False)
        limits = lab.config.limits
        # As wide as can be: one shape, and so one compilation.
        spare = limits.max_prompt_tokens + limits.max_tokens - rows["tokens"].shape[1]
        return {name: np.pad(x, ((0, 0), (0, spare))) for name, x in rows.items()}
