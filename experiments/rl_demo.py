"""RL with process rewards on the built-in task: what each method makes of the demo.

    pav run --config=experiments/rl_demo.py --workdir=runs/demo

The same experiment as demo.py with stages added: in the workdir of a finished demo,
only these run. RFT on the base policy's correct rollouts, then RL by each method and
seed (paper, Sec. 5 and App. E), then Pass@N of every policy. With --until=improvement
search is left out. `:controls` trains by rewards that should not help as well: the
prover's value in place of its progress (the paper's bad one), the policy as its own
prover, and outcomes scaled to the spread that PAV-RL's rewards have. Hardware: 2 CPU
cores. `:smoke` takes about two minutes and shows only that everything runs.
"""

import demo
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "smoke", "controls"):
        raise ValueError(f"no variant {variant!r}; there are 'smoke' and 'controls'")
    config = demo.get_config("smoke" if variant == "smoke" else "")
    rft = demo.optimizer(steps=300, learning_rate=1e-3)
    training = dict(
        steps=200,  # iterations; each is one update
        problems=16,  # of an iteration
        samples=4,  # responses to each of them
        learning_rate=5e-4,  # peak, of the policy
        value_learning_rate=1e-3,
        final_learning_rate=0.05,  # as a fraction of the peak
        warmup_steps=20,  # the paper's tenth
        weight_decay=0.0,
        clip_norm=1.0,
        kl=0.001,  # weight of the KL to the initial policy
        max_kl=2.0,  # nats a token, at which the run stops
        measure_every=20,  # iterations
    )
    pav_rl = dict(reward="progress", baseline="value", alpha=1.0, prover_k=4)  # Bo4(π)
    methods = dict(
        orm_rl=dict(reward="outcome", baseline="value"),
        grpo=dict(reward="outcome", baseline="group"),
        pav_rl=pav_rl,
    )
    if variant == "controls":
        methods |= dict(
            prover_value=pav_rl | dict(reward="value"),
            own_prover=pav_rl | dict(prover_k=1),
            matched=pav_rl | dict(reward="matched"),
        )
    final = dict(
        samples=32,  # responses to a test problem
        ns=(1, 2, 4, 8, 16, 32),
        reference="orm_rl",  # what methods are compared with
    )
    if variant == "smoke":
        # So easy that even this policy solves some: RFT needs correct responses.
        config.task.update(dict(min_depth=1, max_depth=1, num_people=3))
        config.problems.sft = 6_000
        config.model.update(dict(embed_dim=32, mlp_dim=64))
        config.sft.update(dict(steps=600, warmup_steps=50, learning_rate=1e-2))
        rft.update(dict(steps=4, warmup_steps=1, batch_size=2))
        training.update(dict(steps=4, warmup_steps=1, problems=4, samples=2))
        training.update(dict(measure_every=2))
        final.update(dict(samples=4, ns=(1, 2, 4)))
    seeds = (0,) if variant == "smoke" else (0, 1, 2)
    config.rl = dict(
        rft=rft, training=training, seeds=seeds, methods=methods, final=final
    )
    return config
