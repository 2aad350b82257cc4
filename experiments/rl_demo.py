"""RL with process rewards on the built-in task, from a base policy that it can better.

    pav run --config=experiments/rl_demo.py --workdir=runs/rl_demo --until=improvement

The whole pipeline, with stages added: RFT on the base policy's correct rollouts, then
RL by each method and seed (paper, Sec. 5 and App. E), then Pass@N of every policy, and
best-of-N and beams on the problems that the base policy never solves.
Without --until search and the page follow, with a section on RL. docs/rl.md says what
came of it. Hardware: 2 CPU cores.

The task is demo.py's with other problems. Who has gone home is said beside the sentence
that leads to them, and the demonstrations go wrong at seven forks in ten. So the base
policy sees what tells a decoy from the path, and leans to the decoy: its greedy
responses are worse than its samples, and rewards have something to turn round.

Variants train by more methods, and in the same workdir do none again. Several go
together, as in `:sparse,controls`:

    :controls     rewards that should not help as well: the prover's value in place of
                  its progress, added up over later steps (the paper's bad one), the
                  SFT policy for the prover (K = 1; the paper's prover for RL), and
                  outcomes scaled to the spread that PAV-RL's rewards have
    :provers      BoK of the SFT policy for other K, and what Theorem 3.1 says of them
                  from labels
    :monte_carlo  no verifier: continuations of each step by the policy as it is, the
                  prover Bo4 of it or the policy itself (μ = π)
    :refreshed    the verifier is trained on during RL, on the policy's new rollouts
    :alpha        one seed for each α, measured on validation problems
    :sparse       another base policy, in a workdir of its own: demonstrations take the
                  decoy nine times in ten, so that few responses are right, and outcomes
                  tell little
    :smoke        takes two minutes and shows only that everything runs
"""

import demo
from ml_collections import ConfigDict

VARIANTS = "controls provers monte_carlo refreshed alpha sparse smoke".split()
ALPHAS = (0.1, 0.3, 1.0, 3.0, 6.0)
PROVERS = (1, 2, 4, 8, 16)


def get_config(variant: str = "") -> ConfigDict:
    variants = variant.split(",") if variant else []
    for name in variants:
        if name not in VARIANTS:
            raise ValueError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    config = demo.get_config("smoke" if "smoke" in variants else "")
    config.name = "rl_demo"
    if "smoke" not in variants:
        _base(config)
    # μ is Bo4 of the SFT policy, whose Q the verifier predicts.
    pav_rl = dict(reward="progress", baseline="value", alpha=1.0, prover_k=4)
    config.rl = dict(
        rft=demo.optimizer(steps=60, learning_rate=1e-4),
        training=dict(
            steps=100,  # iterations; each is one update
            problems=8,  # of an iteration
            samples=4,  # responses to each of them
            learning_rate=5e-4,  # peak, of the policy
            value_learning_rate=1e-3,
            final_learning_rate=0.05,  # as a fraction of the peak
            warmup_steps=10,  # the paper's tenth
            weight_decay=0.0,
            clip_norm=1.0,
            kl=0.001,  # weight of the KL to the initial policy
            max_kl=2.0,  # nats a token, at which the run stops
            min_accuracy=0.5,  # of the initial policy's, on validation; likewise
            measure_every=10,  # iterations
            measure_samples=2,  # responses to each problem
        ),
        measured="test",  # the problems of the curves and of the last policies
        seeds=(0, 1, 2),
        methods=dict(
            orm_rl=dict(reward="outcome", baseline="value"),
            grpo=dict(reward="outcome", baseline="group"),
            pav_rl=pav_rl,
        ),
        final=dict(
            problems=128,  # of those measured, the first
            samples=128,  # responses to a problem
            unsolved=256,  # of the base policy, to say which it never solves
            ns=(1, 2, 4, 8, 16, 32, 64, 128),
            beams=(16, 32),  # N of beams by Q^π, on the problems that it never solves
            reference="orm_rl",  # what methods are compared with
        ),
    )
    with config.unlocked():
        rl = config.rl
        if "controls" in variants:
            rl.methods.value_to_go = pav_rl | dict(reward="value_to_go")
            rl.methods.sft_prover = pav_rl | dict(prover_k=1)
            rl.methods.matched = pav_rl | dict(reward="matched")
        if "provers" in variants:
            for k in PROVERS:
                if k != pav_rl["prover_k"]:
                    name = "sft_prover" if k == 1 else f"prover_{k}"
                    rl.methods[name] = pav_rl | dict(prover_k=k)
            rl.provers = dict(
                problems=64,
                responses=4,  # to each of them
                n_mc=32,  # continuations of every step prefix; 2K at least
                ks=PROVERS,
            )
        if "monte_carlo" in variants:
            rl.methods.pav_mc = pav_rl | dict(n_mc=4)
            rl.methods.own_prover = pav_rl | dict(n_mc=4, prover_k=1)
        if "refreshed" in variants:
            rl.methods.pav_refreshed = pav_rl | dict(refresh_every=50)
            rl.refresh = _refresh()
        if "alpha" in variants:
            rl.measured, rl.seeds = "validation", (0,)
            # A field's name may have no dot.
            names = [f"alpha_{a:g}".replace(".", "_") for a in ALPHAS]
            rl.methods = {
                name: pav_rl | dict(alpha=a)
                for name, a in zip(names, ALPHAS, strict=True)
            }
            rl.final.reference = "alpha_1"
        if "sparse" in variants:
            config.task.wrong_turns = 0.9
            rl.training.steps, rl.training.measure_every = 200, 20
        if "smoke" in variants:
            _shrink(config)
    return config


def _base(config: ConfigDict) -> None:
    """Problems and sizes of a base policy that RL can better, in two minutes of SFT."""
    with config.unlocked():
        config.task.update(
            dict(
                min_depth=4,
                max_depth=4,
                min_people=6,  # 1 to 4 decoys
                num_people=9,
                gone_beside=True,
                wrong_turns=0.7,
            )
        )
    config.limits.update(dict(max_prompt_tokens=40, max_tokens=32, max_steps=6))
    config.model.mlp_dim = 128
    config.sft.steps = 3_000
    for section in (config.verifier.prm, config.verifier.orm):
        section.steps = 500


def _refresh() -> dict:
    """Of fresh rollouts, and of the training on them."""
    optimizer = demo.optimizer(steps=60, learning_rate=5e-4)
    return dict(
        **optimizer.to_dict(),
        language_weight=0.1,
        problems=640,  # one response to each
        n_mc=2,  # continuations of every step prefix
    )


def _shrink(config: ConfigDict) -> None:
    """The same stages in two minutes, on a task so easy that even this policy solves
    some of it: RFT needs correct responses."""
    with config.unlocked():
        shape = dict(min_depth=1, max_depth=1, num_people=3)
        config.task.update(shape | dict(gone_beside=True, wrong_turns=0.3))
    config.problems.sft = 6_000
    config.model.update(dict(embed_dim=32, mlp_dim=64))
    config.sft.update(dict(steps=600, warmup_steps=50, learning_rate=1e-2))
    rl = config.rl
    rl.seeds = (0,)
    rl.rft.update(dict(steps=4, warmup_steps=1, batch_size=2))
    rl.training.update(dict(steps=4, warmup_steps=1, problems=4, samples=2))
    rl.training.update(dict(measure_every=2, measure_samples=2))
    rl.methods.pav_mc = dict(rl.methods.pav_rl) | dict(n_mc=4)
    rl.methods.pav_refreshed = dict(rl.methods.pav_rl) | dict(refresh_every=2)
    rl.refresh = _refresh() | dict(problems=8, steps=2, warmup_steps=1, batch_size=4)
    rl.provers = dict(problems=4, responses=2, n_mc=4, ks=(1, 2))
    rl.final.update(dict(problems=8, samples=4, unsolved=4, ns=(1, 2, 4)))
    rl.final.beams = (2,)
