"""RL from a base policy that is right once in hundreds of responses.

    pav run --config=experiments/sparse_rl.py --workdir=runs/sparse_rl \
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

Added after trials 1 and 2, which failed (a): both policies state a relation to somebody
who has gone home, which is right in most demonstrations' names, and never look up the
sentence. So π and μ start from one policy that can copy, in the place of a pretrained
one: `:pretrained`, of demonstrations without wrong turns, few decoys among them, short
ones first. Gates, and settings of (b) and (c), stay as they were.

Added after trial 3, which met (a) and (b) by one response or two of 64 to a problem,
and missed both as narrowly by 256 others: the gates count 256. Its fine-tuning had not
converged, so trial 4 is as trial 3 with twice the steps of π.

Added after trial 4, which met (a) and missed (b) by one response (40 of 40,960 right,
41 wanted): a policy is right at forks less often than its demonstrations, so arithmetic
is an upper bound. `wrong_turns` goes from 0.9 to 0.87, whose 0.81% by arithmetic is
still below the 1% of (b). This setting, unlike the others, was chosen
knowing (b). μ is that of trial 3, with 1,000 steps where π has
2,000; it meets (a) and (c).

What `:pretrained` was is the stage `pretraining` now, and μ of (c) is that of
`evidence/provers.py`. `:smoke` is rl_demo.py's; it shows only that everything runs.

Hardware: 2 CPU cores.
"""

import rl_demo
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = rl_demo.get_config(variant)
    config.name = "sparse_rl"
    config.rl.seeds = (0,)
    if variant == "smoke":
        with config.unlocked():
            config.pretraining = dict(task=dict(wrong_turns=0.0))
        return config
    config.task = dict(
        name="relations",
        seed=0,
        min_depth=3,  # relations between the number given and the one asked
        max_depth=5,
        decoys=(3, 7),  # fewest and most people who are not on the path
        gone_beside=True,
        answer_path=True,  # or one response in forty is right by luck
        wrong_turns=0.87,
    )
    config.problems.labels = 3_000
    config.limits.update(dict(max_prompt_tokens=56, max_tokens=32, max_steps=7))
    config.sft.update(dict(steps=2_000, learning_rate=1e-3))
    easier = dict(decoys=(1, 7), wrong_turns=0.0)
    longer = dict(steps=1_800, learning_rate=3e-3)
    with config.unlocked():
        config.pretraining = dict(task=easier, sft=longer)
        config.pretraining.sft.short_first = dict(steps=800, fraction=0.125)
    config.rl.rft.batch_size = 4  # of 6,000 rollouts some 15 are right
    config.rl.training.steps = 200
    # Measured on 320 responses the initial accuracy is one right response or none.
    config.rl.training.min_accuracy = 0.0
    config.rl.final.update(dict(problems=64, samples=16, unsolved=32, ns=(1, 4, 16)))
    with config.unlocked():
        del config.rl.final.beams  # nearly all problems are never solved
    return config
