"""Where progress pays in beam search, on a tree whose values are known exactly.

    pav lab --config=experiments/evidence/tree.py --workdir=runs/evidence/tree

Hardware: one CPU core; five minutes. `:smoke` takes seconds and shows only that it
runs.

The paper (Sec. 4.1) finds that beams by `Q^π + αA^μ` with μ = Bo4(π) and α of 0.2 to
0.6 beat beams by `Q^π` at every N. Here the values are exact and errors are put in one
kind at a time. Hypotheses, written before the run:

  1. Identity: at N = 1 all candidates have one parent, so progress changes nothing,
     for any K and α (`Q^BoK` rises with `Q^π`).
  2. With exact values, progress with K = 1 gains nothing at any N (`Q^π` alone is the
     better rank of prefixes for what they are worth). It may lose.
  3. With independent errors, progress gains nothing: the parent's error is one more.
  4. With rare and persistent over-rating, progress with K = 1 gains much at N >= 16,
     since an over-rated beam shows no progress; K = 4 gains little where the level of
     the over-rating is above 0.5, for there Bo4 is flat.
  5. With persistent errors that drift, progress gains, less than in 4.
  6. What the search holds (Pass@N) gains more than what is picked by `Q^π` at the end,
     where the over-rating lasts until the last step.
  7. (Added after a first run of the above, before the cells with random ties and with
     noise were run. In it progress gained much at K = 4 too, and as much at α = 0.2 as
     at 1.) Part of the gain in 4 is that of breaking ties: all that continues one
     over-rated prefix has one estimate, so that `Q^π` alone keeps what comes first in
     the order. With ties broken at random, or with an independent error of the logit
     of 0.3 on top of the over-rating, the gain is smaller, and larger for K = 1 than
     for K = 4.

Seeds: 10, each with problems of its own; all settings of a seed share their draws, and
gains over `Q^π` alone (α = 0) are paired by seed. Intervals are by t at 99%, since the
map has hundreds of cells; a gain or a loss is one whose interval leaves out zero.
Nothing is selected: every cell is in the table, and where the text names one K and α
they are K = 1 and K = 4 at α = 0.5, fixed here.
"""

from ml_collections import ConfigDict


def error(
    kind: str,
    size: float = 0.0,
    level: float = 0.0,
    noise: float = 0.0,
    ties: str = "order",
) -> ConfigDict:
    return ConfigDict(dict(kind=kind, size=size, level=level, noise=noise, ties=ties))


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "tree"
    config.laboratory = "tree"
    config.seeds = tuple(range(10))
    config.problems = 250  # of a seed

    # Values of the bare problems: log-uniform between these.
    config.lowest = 0.002
    config.highest = 0.6
    config.steps = 8  # H
    config.candidates = 3  # C, steps sampled from each beam: the paper's
    config.beams = (1, 4, 16, 64)  # N
    config.provers = (1, 2, 4, 8, 32)  # K
    config.alphas = (0.0, 0.2, 0.5, 1.0, 3.0)

    # size: the deviation of the logit's error, or how often a step is over-rated;
    # level: what the estimate is then at least; noise: an independent error on top.
    config.errors = ConfigDict()
    config.errors.none = error("none")
    config.errors.independent_small = error("independent", 0.5)
    config.errors.independent = error("independent", 1.0)
    config.errors.independent_large = error("independent", 2.0)
    config.errors.persistent_small = error("persistent", 0.5)
    config.errors.persistent = error("persistent", 1.0)
    config.errors.persistent_large = error("persistent", 2.0)
    config.errors.rarest = error("rare", 0.01, level=0.9)
    config.errors.rare = error("rare", 0.03, level=0.9)
    config.errors.less_rare = error("rare", 0.1, level=0.9)
    config.errors.rare_mild = error("rare", 0.03, level=0.5)
    config.errors.rare_sure = error("rare", 0.03, level=0.99)
    for name in ("rarest", "rare", "less_rare"):
        size = config.errors[name].size
        config.errors[f"{name}_random"] = error("rare", size, level=0.9, ties="random")
        config.errors[f"{name}_noisy"] = error("rare", size, level=0.9, noise=0.3)

    if variant == "smoke":
        config.seeds = (0, 1)
        config.problems = 8
        config.beams = (2,)
        config.provers = (1, 4)
        config.alphas = (0.0, 0.5)
        config.errors = ConfigDict()
        config.errors.rare = error("rare", 0.03, level=0.9)
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is smoke")
    return config
