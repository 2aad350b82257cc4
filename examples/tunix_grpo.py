"""PAV-RL with tunix's GRPO: the progress of each step is paid to its tokens.

    pip install google-tunix    # beside pav_jax; tested with 0.1.7

What tunix takes by itself: a reward function gives one number a completion, and the
learner turns those of a group into an advantage for all tokens of it alike. Progress
cannot be paid in that way: summed over a response it is the outcome less a number of
the prompt, and the group's mean takes that off.

What it takes of a subclass: the loss accepts advantages of shape `[B, T]`, which it has
for packed sequences, and `StepCreditLearner` makes them. It overrides two private
methods, which a later tunix may rename; the test of this file then fails. Use it as a
GRPOLearner:

    learner = StepCreditLearner(
        rl_cluster=rl_cluster,        # as for GRPOLearner: actor, reference, rollout
        reward_fns=outcome,           # of each completion, in [0, 1]
        algo_config=GRPOConfig(num_generations=4),
        verifier=Verifier.load("runs/demo"),
        alpha=3.0,
        prover_k=1,
    )
    learner.train(dataset)
"""

import jax.numpy as jnp
import numpy as np
from tunix.rl.grpo.grpo_learner import GRPOLearner
from tunix.rl.rl_cluster import Mode

from pav_jax import Verifier, step_rewards


class StepCreditLearner(GRPOLearner):
    """GRPO, with the process reward of its step added to the advantage of each token.

    The outcome is centred and divided by its deviation in the group, as ever; process
    rewards are not, since they have a baseline of their own: the value before the step.

    Args:
      *args, **kwargs: of GRPOLearner. Its reward functions add up to the outcome, in
        [0, 1].
      verifier: predicts `Q^π` of the policy that training starts from.
      alpha: weight of the process reward.
      prover_k: the prover is BoK(π) of this K.
    """

    def __init__(
        self, *args, verifier: Verifier, alpha: float, prover_k: int, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._verifier, self._alpha, self._prover_k = verifier, alpha, prover_k

    def _compute_rewards(self, prompts, completions, mode, step=None, **kwargs):
        outcomes = super()._compute_rewards(prompts, completions, mode, step, **kwargs)
        self._paid = step_rewards(
            prompts,
            completions,
            self._verifier,
            self._alpha,
            self._prover_k,
            outcomes=outcomes,
            unscorable="zero",  # a policy may write what the verifier cannot read
        )
        return outcomes

    def _generate_and_compute_advantage(self, training_input, mode=Mode.TRAIN):
        example = super()._generate_and_compute_advantage(training_input, mode)
        mask = np.asarray(example.completion_mask)
        process = np.zeros(mask.shape, np.float32)
        tokens = np.asarray(example.completion_ids)
        for row, ids, is_token, paid in zip(
            process, tokens, mask, self._paid, strict=True
        ):
            row[is_token] = paid.on_tokens(
                ids[is_token].tolist(), self.rl_cluster.tokenizer.decode
            )
        advantages = jnp.asarray(example.advantages)[:, None] + process
        return example.replace(advantages=advantages)
