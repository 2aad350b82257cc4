"""How good must a verifier be for beams to beat selection, by the kind of its errors?

    pav lab --config=experiments/evidence/verifier_quality.py \\
        --workdir=runs/evidence/verifier_quality

Hardware: one CPU core; five minutes. `:smoke` takes seconds and shows only that it
runs.

The tree of `tree.py`: values are exact, and errors are put in one kind at a time, from
small ones to those that leave nothing of the estimate. The paper has no such figure. Of
each error, on responses that are sampled i.i.d. from the bare problems: the AUC within
a problem against the outcome, in the middle (4 of 8 steps) and at the last step, as the
pipeline has it of a verifier; and how often the better of two siblings in the middle is
rated higher. Then beams of N by `Q^π` alone, C = 3, and the best of M = 3N samples by
the last estimate: 8M steps are sampled and rated by both. Ties are broken at random.

The sizes of errors were chosen by a look at the AUCs, of other draws, so that these
reach from those of exact values (0.86 in the middle, which is all that 4 steps tell of
the outcome; 1 at the last step) to about 0.5. No gain of a beam over selection had been
looked at. Accuracies of beams at some of the sizes are known from tree.py.

Hypotheses, written before the run:

  1. By exact values beams are above selection by 20 points or more, at every N.
  2. At the same AUC in the middle the kinds differ: half of the gain by exact values is
     lost at a higher AUC by both rare errors than by independent ones, at N = 4 and 16.
  3. Persistent errors lose half within 0.05 of AUC of where independent ones do, at
     N = 4 and 16.
  4. Wide beams stand more independent errors than narrow ones, which are drawn anew at
     each prefix, and fewer rare ones, which a wide search finds: from N = 1 to 16 the
     AUC of half the gain falls by independent errors, and rises by both rare ones.
  5. One beam compares siblings alone, so at N = 1 the order of siblings at half the
     gain differs less between the four errors (largest less smallest) than the AUC in
     the middle does. With N = 4 and 16 it does not.
  6. The AUC of last steps does not tell: by rare over-rating to 0.9 it is 1 at every
     size, and at the largest the beam is below selection, with 16 beams and with 64.
  7. At an AUC of 0.65 in the middle a gain is shown by independent and by persistent
     errors at N = 4 and 16, and by neither rare one at N = 16.

Seeds: 10, each with 500 problems and draws of its own; all sizes of a seed share them,
and beams and selection are paired by seed. Intervals are by t over the seeds: of 99%
for the gains of single cells, since these are more than a hundred, and of 95% for what
follows.

The rule for thresholds, of each error and N: the AUC in the middle at which half of the
gain by exact values is left (of each seed where its curve first comes down to half of
its own, on lines from size to size); the gains at AUCs of 0.75 and 0.65 on the same
lines; and the last size until which every gain is shown. One number is above another
if their intervals have nothing in common, or for 6 and 7 if its interval leaves out
zero. Nothing is selected: every cell is in the table, and docs/guide.md has N = 4 and
16, fixed here.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "verifier_quality"
    config.laboratory = "quality"
    config.seeds = tuple(range(10))
    config.problems = 500  # of a seed

    # As in tree.py.
    config.lowest = 0.002
    config.highest = 0.6
    config.steps = 8  # H
    config.candidates = 3  # C, steps sampled from each beam
    config.beams = (1, 4, 16, 64)  # N
    config.compared = (0.75, 0.65)  # AUCs in the middle at which gains are compared

    # sizes: deviations of the logit's error, or how often a step is over-rated; level:
    # what the estimate is then at least.
    logits = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    shares = (0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 1.0)
    config.errors = ConfigDict()
    config.errors.independent = dict(kind="independent", sizes=logits, level=0.0)
    config.errors.persistent = dict(kind="persistent", sizes=logits, level=0.0)
    config.errors.rare = dict(kind="rare", sizes=shares, level=0.9)
    config.errors.rare_certain = dict(kind="rare", sizes=shares, level=1.0)

    if variant == "smoke":
        config.seeds = (0, 1)
        config.problems = 16
        config.beams = (1, 2)
        config.errors = ConfigDict()
        config.errors.rare = dict(kind="rare", sizes=(0.1, 1.0), level=0.9)
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is smoke")
    return config
