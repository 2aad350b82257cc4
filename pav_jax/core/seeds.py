"""Every stream of random draws, by name: what is drawn under one never repeats another.

A stream's seed is a function of the experiment's `config.seed`, so that a stage can be
run again by itself. What is drawn from it is named further by problem, prefix and
sample (`rollout.branch_keys`).
"""

import enum

import numpy as np


class Stream(enum.IntEnum):
    """What draws are for. The numbers are part of every result: none is used again."""

    ROLLOUTS = 1  # seed rollouts, and what else the ORM is trained on
    LABELS = 2  # continuations of their prefixes
    EVALUATION = 3  # responses to validation problems
    ORACLE = 4  # continuations that give near-exact values
    SAMPLES = 5  # responses to test problems, for best-of-N
    BEAMS = 6  # candidates of beam search
    RL_PROBLEMS = 101  # which problems an iteration has
    RL_RESPONSES = 102  # responses to them
    RL_MEASURE = 103  # responses whose accuracy is measured during RL
    RL_FINAL = 104  # responses of the policies at the end
    RL_LABELS = 105  # continuations, in place of a verifier
    PROVER_RESPONSES = 106  # responses on which provers are compared
    PROVER_OWN = 107  # continuations by the policy
    PROVER_OTHER = 108  # continuations by the base policy
    RL_REFRESH = 109  # a refreshed verifier: which problems, and the order of rows
    REFRESH_RESPONSES = 110  # fresh rollouts, within a refresh
    REFRESH_LABELS = 111  # and continuations of their prefixes
    ON_SEARCH = 112  # candidates of searches on training problems
    ON_SEARCH_LABELS = 113  # and continuations of the steps that these find
    PROVER_ROLLOUTS = 114  # responses of a prover that is another policy
    PROVER_LABELS = 115  # and its continuations of step prefixes
    FIRST_PIT = 116  # continuations of states of high value, and up to first pits
    RL_UNSOLVED = 117  # responses that say which problems the SFT policy never solves
    RL_BEAMS = 118  # candidates of searches on those problems
    LABORATORY = 120  # all of one seed of a laboratory


def derive(seed: int, stream: int, *indices: int) -> int:
    """The 31-bit seed of a stream.

    The first six streams add their number to the seed; since a draw's key also holds
    the problem and the prefix, neighbouring seeds share no draw of the same use. The
    others are hashed with their indices.

    Args:
      seed: `config.seed`, or the seed of one RL run.
      stream: a `Stream`.
      indices: such as the iteration, where a stream is drawn from again and again.
    """
    if stream <= Stream.BEAMS and not indices:
        return seed + stream
    return _hash(seed, stream, *indices)


def run_seed(seed: int, run: int) -> int:
    """The seed of one of several RL runs of an experiment: `config.rl.seeds`."""
    return _hash(seed, run)


def _hash(*numbers: int) -> int:
    entropy = np.random.SeedSequence([int(number) for number in numbers])
    return int(entropy.generate_state(1)[0]) & 0x7FFF_FFFF
