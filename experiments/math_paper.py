"""The paper's experiments on MATH, for any policy; gemma*_math.py are one policy each.

Each needs the data and a checkpoint, so the command goes on with

    --config.task.path=MATH --config.model.checkpoint=WEIGHTS \\
    --config.tokenizer.path=WEIGHTS/tokenizer.model

MATH has train/, test/ and math500.jsonl, as published; WEIGHTS is a checkpoint of the
gemma package or of Hugging Face. `:rl` behind the file's name adds Sec. 5, also to an
existing workdir. `:smoke` runs every stage of Sec. 4 in about a minute on a CPU, with a
tiny policy of the same family and a few problems; it shows only that they run.

Expected, as the paper claims for its policies (Fig. 4), against best-of-N by ORM: beam
search by Q^π + αA^μ is 8 to 10 points more accurate at equal N, and reaches the
accuracy of best-of-128 with much less compute. Each file says how much less.

Settings are the paper's; where it is silent, a comment says so. Three things differ:
the base policy is the last checkpoint of fine-tuning, not the best on validation;
verifiers start from the base policy, not from a pretrained 9B; and the prover is BoK of
the base policy, so cross-provers (Sec. 4.1, Fig. 6) are not among the methods. In RL
the paper's prover is the 2B SFT policy, for the 9B too; here it is the SFT policy that
RL starts from, which for the 2B is the same.

None has been run at full size: memory is computed, and costs are estimated from token
counts, most of them of labels. Search with 128 beams keeps 384 rows of keys and values,
of policy and of verifier, sharded over `data` and `fsdp`.
"""

from ml_collections import ConfigDict, config_dict

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # N, of beams and of best-of-N


def optimizer(steps: int, learning_rate: float, warmup_steps: int) -> ConfigDict:
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=32,
            learning_rate=learning_rate,  # peak
            final_learning_rate=0.0,  # as a fraction of the peak; silent
            warmup_steps=warmup_steps,
            weight_decay=0.0,  # Adam
            clip_norm=1.0,  # silent
        )
    )


def get_config(
    variant: str,
    *,
    name: str,
    sft_learning_rate: float,
    mesh: dict[str, int],
    trunks: int,
    rl: dict[str, float] | None = None,
) -> ConfigDict:
    """The experiment with one policy.

    Args:
      variant: "", "rl" for Sec. 5 as well, or "smoke".
      name: of the policy, as in `pav_jax.gemma.sizes`.
      sft_learning_rate: the peak learning rate of fine-tuning.
      mesh: sizes of the mesh of devices.
      trunks: of the sampling grid; as many as memory holds.
      rl: iterations (`steps`) and `alpha` of Sec. 5; None if the paper has no RL with
        this policy.

    Raises:
      ValueError: there is no such variant.
    """
    variants = ("", "smoke") + (("rl",) if rl else ())
    if variant not in variants:
        raise ValueError(f"no variant {variant!r}; there are {variants[1:]}")
    config = ConfigDict()
    config.name = f"{name}_math"
    config.seed = 0
    # 12,000 problems, of which 4% are held out for validation; MATH-500 is the test.
    config.task = dict(name="math", path="data/math", validation_fraction=0.04)
    config.problems = dict(test=500)
    for split in ("sft", "labels", "validation"):
        config.problems[split] = config_dict.placeholder(
            int
        )  # None: all that there are
    config.problems.disjoint = False  # the problems of fine-tuning are labelled too
    config.limits = dict(
        max_prompt_tokens=1024,  # silent
        max_tokens=512,  # App. E, for RL
        max_steps=32,  # silent; a step is a sentence
    )
    config.tokenizer = dict(path=f"checkpoints/{name}/tokenizer.model")
    config.model = dict(
        name=name,
        checkpoint=f"checkpoints/{name}",  # of the gemma package or Hugging Face
        # A step of 5e-7 would be lost in bfloat16's eight bits.
        dtype="float32",
    )
    config.mesh = mesh
    config.sampling = dict(trunks=trunks, rows=20)

    # App. C.
    config.sft = optimizer(5_000, sft_learning_rate, warmup_steps=500)
    # App. D. More than 300,000 prefixes with four rollouts of a problem.
    config.rollouts = dict(n_cov=4, n_orm=16, temperature=1.0)  # silent
    config.labels = dict(n_mc=20, shard=100)
    config.labels["from"] = ""  # or labels of others: a folder that pav import wrote
    config.verifier = dict(
        prm=optimizer(20_000, 5e-7, warmup_steps=2_000),
        orm=optimizer(20_000, 5e-7, warmup_steps=2_000),
        language_weight=0.0,
        held_out=0.05,  # of the labelled problems; silent
        balance=True,  # two buckets, sampled evenly
        head="sum",  # of evidence of all tokens; or "plain", of the last token alone
        prover_k=4,  # Bo4(π)
    )
    config.evaluation = dict(n=8, oracle_problems=100, oracle_n=2, oracle_n_mc=64)
    # Sec. 4.1; α by grid at beam 16.
    config.search = dict(
        samples=SIZES[-1],
        ns=SIZES,
        beams=SIZES,
        candidates=3,  # C
        alphas=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        prover_ks=(4,),  # Bo4(π)
        alpha_beams=16,
        temperature=1.0,  # silent
    )
    if variant == "rl":
        config.rl = _rl(config.sft, **rl)
    elif variant == "smoke":
        _shrink(config)
    return config


def _rl(sft: ConfigDict, *, steps: int, alpha: float) -> dict:
    """Sec. 5 and App. E."""
    return dict(
        rft=sft.copy_and_resolve_references(),
        training=dict(
            steps=steps,
            problems=32,  # the batch; one response to each
            samples=1,
            learning_rate=1e-7,
            value_learning_rate=1e-6,  # silent
            final_learning_rate=0.0,
            warmup_steps=steps // 10,
            weight_decay=0.0,
            clip_norm=1.0,
            kl=0.001,
            max_kl=2.0,  # nats a token, at which a run stops; not in the paper
            min_accuracy=0.5,  # of the initial policy's, on validation; likewise
            measure_every=500,
            measure_samples=1,
        ),
        measured="test",
        seeds=(0,),
        methods=dict(
            orm_rl=dict(reward="outcome", baseline="value"),
            # Sec. 5 has the SFT policy itself as the prover, and no BoK of it; the
            # verifier predicts its Q, so K is 1. Bo4 is the prover of search.
            pav_rl=dict(reward="progress", baseline="value", alpha=alpha, prover_k=1),
        ),
        final=dict(
            samples=256,
            unsolved=256,
            ns=(*SIZES, 256),
            beams=(16, 32),
            reference="orm_rl",
        ),
    )


def _shrink(config: ConfigDict) -> None:
    """Makes it run in about a minute on two CPU cores, most of it compilation.

    A tiny policy of the same family, a learnt tokenizer, and a few of the problems.
    """
    with config.unlocked():
        del config.mesh
        config.tokenizer = dict(vocab_size=400)
    config.model.update(dict(checkpoint="", shrunk=True))
    config.task.validation_fraction = 0.25  # so that a few dozen problems will do
    config.problems.update(dict(sft=32, labels=4, validation=3, test=4))
    config.limits.update(dict(max_prompt_tokens=800, max_tokens=160, max_steps=6))
    for section in (config.sft, config.verifier.prm, config.verifier.orm):
        section.update(dict(steps=3, warmup_steps=1, batch_size=4, learning_rate=1e-3))
    # Two responses to a problem everywhere, so that stages use the same programs.
    config.rollouts.update(dict(n_cov=2, n_orm=2))
    config.labels.update(dict(n_mc=2, shard=4))
    config.evaluation.update(dict(n=2, oracle_problems=2, oracle_n=1, oracle_n_mc=2))
    config.search.update(dict(samples=2, ns=(1, 2), beams=(2,), alphas=(0.0, 0.5)))
    config.search.alpha_beams = 2
    config.sampling.update(dict(trunks=4, rows=2))
