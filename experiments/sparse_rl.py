"""RL from a base policy that is right once in hundreds of responses.

    pav run --config=experiments/sparse_rl.py --workdir=runs/sparse_rl \\
        --until=improvement

As rl_demo.py, but outcomes tell next to nothing at first: an iteration of RL has 32
responses, and most have no right one among them. `rl_demo.py:sparse` is no such start:
8% of its responses are right, since its problems with one decoy are easy, and the easy
ones make outcomes dense for the others.

Rule, written before any setting was tried. A setting is taken if all of these hold, of
160 validation problems with 64 responses each at temperature 1:

(a) Copying. Of the steps up to a response's first fault and with it, less than 5% are
    wrong facts or wrong arithmetic.
(b) The base policy π. 0.1 to 1% of its responses are right. With the problems in the
    order of their chance by arithmetic, no tenth of them is right on more than 5%.
(c) A prover μ: the same model, fine-tuned on other demonstrations of the same problems
    (only `task.wrong_turns` differs). 20 to 60% of its responses are right.

Settings are chosen by arithmetic, for a policy that copies without fault and turns as
its demonstrations do: it is right on (1 - wrong_turns) ** forks, where a fork is a
person on the path with a decoy. What a trial scored on (b) or (c) chooses no setting;
where copying fails, length of training and order of problems may change, and the shape
of the problems to one with shorter ones among them. The people on the way are part of
the answer (`task.answer_path`): a response that ends at a decoy guesses one of 40
numbers, and 2.5% by luck is more than (b) allows. The first setting that meets (a) and
(b) goes on to (c). Seed 0. All trials are in docs/decisions.md ("A built-in task on
which RL starts from sparse success").

Hardware: 2 CPU cores. `:smoke` is rl_demo.py's and shows only that everything runs.
"""

import rl_demo
from ml_collections import ConfigDict

# Of μ's demonstrations; those of π are in the task.
PROVER_WRONG_TURNS = 0.25


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "smoke"):
        raise ValueError(f"no variant {variant!r}; there is 'smoke'")
    config = rl_demo.get_config(variant)
    config.name = "sparse_rl"
    if variant == "smoke":
        return config
    config.task = dict(
        name="relations",
        seed=0,
        min_depth=3,  # short paths too: copying is learnt from these
        max_depth=5,
        decoys=(3, 7),
        gone_beside=True,
        answer_path=True,
        wrong_turns=0.9,
    )
    config.problems.labels = 3_000
    config.limits.update(dict(max_prompt_tokens=56, max_tokens=32, max_steps=7))
    with config.unlocked():
        config.sft.short_first = dict(steps=800, fraction=0.125)
    config.rl.training.steps = 300
    config.rl.seeds = (0,)
    return config
