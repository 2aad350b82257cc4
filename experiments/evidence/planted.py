"""The planted sub-sequence: which provers teach a policy, and what decides it.

    pav lab --config=experiments/evidence/planted.py --workdir=runs/evidence/planted

Hardware: one CPU core; 17 minutes. `:smoke` takes half a minute, most of it to compile,
and shows only that it runs.

The paper (Sec. 3.3, App. B, Fig. 3 and 9): outcomes are nearly useless to a policy that
is nearly never right; the effective reward with the prover μ_γ=10 comes to 100% in
about 350 iterations, 10 times fewer than outcomes need; only γ in about [8, 15] helps;
after 100 iterations Pass@N grows 5 times faster in N. The variant `paper` is the
paper's setting with exact `Q^μ` ("almost oracle" there), where the outcome stands for
`Q^π`. Each other variant changes one factor (or, `table`, the policy with the rate that
belongs to it). Hypotheses, written before the run:

  1. With γ = 10 one half is reached at least 10 times sooner than by outcomes alone
     (variant `long`, up to 10,000 iterations), and within 350 iterations.
  2. In `paper` there is no window: Adam takes out the scale of `A^μ`, so weak and
     strong provers teach alike. (A tabular trial said so.)
  3. Monte Carlo noise takes away the weak provers: where `Q^μ` is well below 1 / n_mc,
     no continuation is right until most of `y*` is there. The strong ones stay.
  4. With SGD the scale of `A^μ` counts, so weak provers fail; strong ones teach as well
     as γ = 10 or better. So no window here either.
  5. α, what follows `y*`, whether the end is trained on, and longer SFT move all γ
     together.
  6. After 100 iterations, Pass@N of γ = 10 reaches one half at 5 times fewer N than
     that of outcomes alone.

Measured: the fraction of training responses that is right, averaged over all
iterations, and the first iterations at which it is one half (averaged over a hundredth
of the run); before and after RL, 4,096 responses (`short`: 16,384). 5 seeds, each with
its own SFT and RL draws; the same seeds for all γ; intervals by t at 95%.

The rule for a window, of each variant: the γ of highest mean accuracy lies within
[8, 15], and it is better than γ = 5 and than γ = 50, both with paired intervals that
leave out zero. All cells are reported; nothing is selected.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "planted"
    config.laboratory = "planted"
    config.seeds = (0, 1, 2, 3, 4)
    config.task = dict(length=10, vocabulary=15, planted=(3, 6, 0, 3, 5))

    config.base = dict(
        gammas=(2.0, 5.0, 10.0, 15.0, 50.0, 1000.0),
        outcome=True,  # also the outcome alone
        alpha=1.0,
        n_mc=0,  # continuations that `Q^μ` is estimated from; 0: exact
        exact_q=False,  # `Q^π` of a table, in place of the outcome
        tabular=False,
        prover_after="end",  # what the prover writes after `y*`
        sft_after="end",  # and in the demonstrations
        train_end=False,  # whether the loss has the end of a sequence
        sft_gamma=5.0,
        sft_steps=50,
        sft_learning_rate=1e-3,
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=64,
        iterations=500,
        measured=4_096,
    )

    def but(**changes) -> ConfigDict:
        return ConfigDict(changes)

    config.variants = ConfigDict()
    variants = config.variants
    variants.paper = but(
        gammas=(2.0, 5.0, 8.0, 10.0, 12.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
    )
    variants.mc_100 = but(n_mc=100, outcome=False)
    variants.mc_10 = but(n_mc=10, outcome=False)
    variants.sgd_slow = but(optimizer="sgd", learning_rate=0.1)
    variants.sgd_fast = but(optimizer="sgd", learning_rate=1.0)
    variants.alpha_small = but(alpha=0.1, outcome=False)
    variants.alpha_large = but(alpha=5.0, outcome=False)
    variants.uniform_after = but(sft_after="uniform")
    variants.end_trained = but(train_end=True)
    variants.long_sft = but(sft_steps=1_000)
    # From the table of μ_5 itself. A logit serves one place, hence the higher rates.
    variants.table = but(tabular=True, learning_rate=0.03)
    variants.table_exact_q = but(tabular=True, learning_rate=0.03, exact_q=True)
    variants.table_sgd = but(tabular=True, learning_rate=10.0, optimizer="sgd")
    variants.short = but(iterations=100, gammas=(5.0, 10.0, 50.0), measured=16_384)
    variants.long = but(iterations=10_000, gammas=())

    if variant == "smoke":
        config.seeds = (0, 1)
        config.base.update(gammas=(5.0, 50.0), outcome=False, measured=8)
        config.base.update(iterations=2, sft_steps=2, batch_size=4)
        config.variants = ConfigDict()
        config.variants.paper = but()
        config.variants.short = but(gammas=(10.0,))
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is smoke")
    return config
