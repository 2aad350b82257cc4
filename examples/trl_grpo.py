"""PAV-RL with TRL's GRPO: the progress of each step is paid to its tokens.

    pip install trl    # beside pav_jax; tested with 1.16
    python examples/trl_grpo.py --verifier=runs/demo --model=MODEL --problems=FILE

What TRL takes by itself: a reward function gives one number a completion, and GRPO
gives what is left of it, less the group's mean, to all tokens alike. Progress cannot be
paid in that way: summed over a response it is the outcome less a number of the prompt,
and the group's mean takes that off. So a reward function is the place for outcomes.

What it takes of a subclass: the loss accepts advantages of shape `[B, T]` ("to support
subclasses", says `GRPOTrainer._compute_loss`), and `StepCreditTrainer` makes them. It
overrides two private methods, which a later TRL may rename; the test of this file then
fails. Prompts are plain texts, not lists of messages, one process trains, and
`use_liger_kernel` stays off.
"""

import argparse
import json

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from pav_jax import Verifier, step_rewards


class StepCreditTrainer(GRPOTrainer):
    """GRPO, with the process reward of its step added to the advantage of each token.

    The outcome is centred and divided by its deviation in the group, as ever; process
    rewards are not, since they have a baseline of their own: the value before the step.

    Args:
      *args, **kwargs: of GRPOTrainer. The one reward function gives the outcome, in
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

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        outcomes = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        found = step_rewards(
            prompts,
            completions,
            self._verifier,
            self._alpha,
            self._prover_k,
            outcomes=outcomes[:, 0].tolist(),
            unscorable="zero",  # a policy may write what the verifier cannot read
        )
        self._process = [
            paid.on_tokens(ids, self._decode)
            for paid, ids in zip(found, completion_ids_list, strict=True)
        ]
        return outcomes

    def _decode(self, ids):
        return self.processing_class.decode(ids, skip_special_tokens=True)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        process = np.zeros(output["completion_ids"].shape, np.float32)
        for row, paid in zip(process, self._process, strict=True):
            row[: len(paid)] = paid  # completions are padded on the right
        advantages = output["advantages"]
        process = torch.as_tensor(process, device=advantages.device)
        output["advantages"] = advantages[:, None] + process
        return output


def last_line_is_right(completions, answer, **_):
    """The outcome of each completion; put the grader of your own task here.

    The last words of the last line are the answer: not its last characters, by which
    "Answer: 12" would be right for 2.
    """
    outcomes = []
    for text, right in zip(completions, answer, strict=True):
        words, wanted = text.strip().rpartition("\n")[2].split(), str(right).split()
        outcomes.append(float(words[-len(wanted) :] == wanted))
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--verifier", required=True, help="workdir of a run")
    parser.add_argument("--model", required=True, help="for transformers")
    parser.add_argument("--problems", required=True, help="lines: prompt, answer")
    parser.add_argument("--output", default="runs/trl")
    parser.add_argument("--alpha", type=float, default=3.0)
    parser.add_argument("--prover_k", type=int, default=1)
    arguments = parser.parse_args()
    with open(arguments.problems) as lines:
        problems = Dataset.from_list([json.loads(line) for line in lines])
    StepCreditTrainer(
        model=arguments.model,
        reward_funcs=last_line_is_right,
        args=GRPOConfig(output_dir=arguments.output),
        train_dataset=problems,
        verifier=Verifier.load(arguments.verifier),
        alpha=arguments.alpha,
        prover_k=arguments.prover_k,
    ).train()


if __name__ == "__main__":
    main()
