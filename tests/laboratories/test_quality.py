"""What a verifier's estimate is worth on the tree, where it is known by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from scipy.special import logit, ndtr, ndtri

from pav_jax import metrics
from pav_jax.core import config as config_lib
from pav_jax.core.types import Response
from pav_jax.laboratories import quality_cells, tree

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT, STEPS, PROBLEMS = 0.3, 8, 1_000
START = ndtri(ROOT) * STEPS**0.5
GRID = np.linspace(-6, 6, 241)
WEIGHTS = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()
LOGIT = logit(1 - 1e-6)  # of an outcome


def sample(error="none", size=0.0, level=0.0, responses=60, problems=PROBLEMS):
    config = FrozenConfigDict(dict(steps=STEPS, error=error, level=level, noise=0.0))
    found = tree.sample(
        jax.random.key(3), jnp.full(problems, ROOT), size,
        responses=responses, config=config,
    )  # fmt: skip
    return tuple(map(np.asarray, found))


def qualities(*arguments):
    return quality_cells.qualities(*sample(*arguments))


def logits(total, left):
    return logit(ndtr(total / left**0.5).clip(1e-6, 1 - 1e-6))


def auc_in_the_middle(deviation):
    """Over the sums of a right and of a wrong response, by quadrature."""
    total = START + 2 * GRID  # after 4 steps
    right = WEIGHTS * ndtr(total / 2)
    wrong = WEIGHTS - right
    apart = logits(total, 4)[:, None] - logits(total, 4)
    above = ndtr(apart / (2**0.5 * deviation))
    return (right @ above @ wrong) / (right.sum() * wrong.sum())


def order_of_siblings(deviation):
    """Over the sum of the parent, after 3 steps, and two steps from it."""
    found = 0.0
    for parent, weight in zip(START + 3**0.5 * GRID, WEIGHTS, strict=True):
        of = logits(parent + GRID, 4)
        apart = np.abs(of[:, None] - of)
        found += weight * (WEIGHTS @ ndtr(apart / (2**0.5 * deviation)) @ WEIGHTS)
    return found


def test_exact_values_are_the_most_that_the_middle_tells():
    found = qualities()
    assert found["auc_last"] == 1 and found["siblings"] == 1
    assert found["auc_middle"] == pytest.approx(auc_in_the_middle(1e-9), abs=0.01)


@pytest.mark.parametrize("size", [1.0, 4.0])
@pytest.mark.parametrize(
    "error, of_middle, of_siblings",
    # A persistent error is a walk of 8 steps; siblings share all but the last of 4.
    [("independent", 1.0, 1.0), ("persistent", 0.5**0.5, 8**-0.5)],
)
def test_errors_of_the_logit(error, size, of_middle, of_siblings):
    found = qualities(error, size)
    expected = auc_in_the_middle(size * of_middle)
    assert found["auc_middle"] == pytest.approx(expected, abs=0.01)
    expected = order_of_siblings(size * of_siblings)
    assert found["siblings"] == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize("error", ["independent", "persistent"])
def test_the_last_step_is_hidden_by_large_errors_alone(error):
    assert qualities(error, 4.0)["auc_last"] > 0.9999
    # Logits above 16 are one number in float32, which takes a little away.
    expected = ndtr(2 * LOGIT / (2**0.5 * 16))
    assert qualities(error, 16.0)["auc_last"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("size", [0.03, 0.3, 1.0])
def test_what_is_over_rated_to_certainty_is_tied_with_what_is_right(size):
    found = qualities("rare", size, 1.0)
    clean = (1 - size) ** STEPS
    assert found["auc_last"] == pytest.approx((1 + clean) / 2, abs=0.01)
    clean = (1 - size) ** 5  # three steps to the parent, and two siblings
    assert found["siblings"] == pytest.approx((1 + clean) / 2, abs=0.008)
    below = qualities("rare", size, 0.9)
    assert below["auc_last"] == 1 and below["siblings"] >= found["siblings"]


def test_aucs_are_those_that_the_pipeline_reports():
    exact, estimates = sample("persistent", 2.0, responses=5, problems=12)
    responses, q = [], []
    for problem in range(12):
        for i in range(5):
            right = bool(exact[-1, problem, i, 0] == 1)
            responses.append(Response(problem, (1,), (2,), (), right))
            q.append(np.append(ROOT, estimates[:, problem, i, 0]))
    theirs = metrics.outcome_auc(responses, q)
    ours = quality_cells.qualities(exact, estimates)
    assert ours["auc_middle"] == pytest.approx(theirs["middle"], abs=1e-12)
    assert ours["auc_last"] == pytest.approx(theirs["last"], abs=1e-12)
    assert 0.5 < ours["auc_middle"] < ours["auc_last"]


def test_selection_is_pass_at_m_where_the_end_is_seen_and_chance_where_it_is_not():
    counts = [1, 3, 12]
    expected = [1 - (1 - ROOT) ** m for m in counts]
    found = quality_cells.selections(*sample("rare", 0.3, 0.9), counts)
    assert found["selection"] == pytest.approx(expected, abs=0.01)
    assert found["selection"] == pytest.approx(found["pass_at_m"])
    drowned = quality_cells.selections(*sample("rare", 1.0, 1.0), counts)
    assert drowned["selection"] == pytest.approx([ROOT] * 3, abs=0.01)


def cell(**fields):
    """Of 2 seeds, whose problems are worth 0.3 or a little less."""
    return dict(
        error="exact", kind="none", size=0.0, level=0.0, steps=2, candidates=3,
        problems=5_000, lowest=0.299, highest=0.3, beams=[1, 2], compared=[0.65],
        seeds=[0, 1],
    ) | fields  # fmt: skip


def test_beams_and_selection_sample_as_many_steps():
    """A beam of N samples 3N steps each time, and so do 3N responses."""
    found = quality_cells.measure(cell())
    expected = [1 - (1 - ROOT) ** m for m in (3, 6)]
    for row in found["selection"]:
        assert row == pytest.approx(expected, abs=0.02)
    # One beam: the best of three first steps, then of three outcomes, by quadrature.
    best = 3 * ndtr(GRID) ** 2 * WEIGHTS
    one = (best * (1 - (1 - ndtr(ndtri(ROOT) * 2**0.5 + GRID)) ** 3)).sum()
    for row in found["beam"]:
        assert row[0] == pytest.approx(one, abs=0.025) and row[1] > one + 0.1


def test_an_estimate_of_no_use_is_chance_for_both():
    found = quality_cells.measure(cell(error="rare", kind="rare", size=1.0, level=1.0))
    assert found["auc_middle"] == found["auc_last"] == found["siblings"] == [0.5, 0.5]
    for name in ("beam", "selection"):
        np.testing.assert_allclose(found[name], ROOT, atol=0.026)
    assert np.min(found["held"]) > 0.29 and np.min(found["pass_at_m"]) > 0.6


def test_where_a_curve_comes_down():
    x = np.array([[0.9, 0.9], [0.8, 0.8], [0.6, 0.7], [0.5, 0.5]])
    y = np.array([[0.4, 0.4], [0.3, 0.3], [0.1, 0.1], [0.3, 0.0]])
    mean, low, high = quality_cells.crossing(x, y, np.array([0.2, 0.2]))
    assert mean == pytest.approx((0.7 + 0.75) / 2) and low < mean < high
    assert quality_cells.crossing(x, y, np.array([0.2, -0.1])) is None  # never
    assert quality_cells.crossing(x, y, np.array([0.2, 0.4])) is None  # from the start


def test_thresholds_by_the_rule():
    """Gains of 40, 30, 10 and 20 points, and one in the middle that is not shown."""

    def measured(error, size, auc, gain, spread=0.001):
        beam = [[0.5 + gain - spread], [0.5 + gain + spread]]
        numbers = dict(auc_middle=[auc] * 2, siblings=[auc + 0.1] * 2)
        numbers |= dict(beam=beam, selection=[[0.5]] * 2)
        return cell(error=error, size=size, beams=[4], **numbers)

    cells = [
        measured("exact", 0.0, 0.9, 0.4),
        measured("drift", 1.0, 0.8, 0.3),
        measured("drift", 2.0, 0.6, 0.1, spread=0.05),
        measured("drift", 4.0, 0.5, 0.2),
        measured("mild", 1.0, 0.8, 0.3),
    ]
    found = quality_cells.summary(cells)
    assert [of[0][0] for of in found["gains"]] == pytest.approx(
        [0.4, 0.3, 0.1, 0.2, 0.3]
    )
    drift, mild = found["thresholds"]
    assert drift["half"]["auc_middle"][0] == pytest.approx(0.7, abs=0.01)
    assert drift["half"]["siblings"][0] == pytest.approx(0.8, abs=0.01)
    assert drift["compared"][0][0] == pytest.approx(0.15)
    assert (drift["shown"], drift["not_shown"]) == (1.0, 2.0)
    assert mild["half"]["auc_middle"] is mild["compared"][0] is None
    assert (mild["shown"], mild["not_shown"]) == (1.0, None)


def test_every_cell_is_on_the_page_in_the_documents():
    file = REPOSITORY / "experiments" / "evidence" / "verifier_quality.py"
    wanted = [
        (f"{one['error']} {one['size']:g}" if one["size"] else "exact", str(beams))
        for one in quality_cells.cells(config_lib.call(str(file), "get_config"))
        for beams in one["beams"]
    ]
    page = REPOSITORY / "docs" / "evidence" / "verifier_quality.md"
    rows = page.read_text().partition("Every cell")[2].splitlines()
    columns = [row.split(" | ") for row in rows if row.startswith("| ")][2:]
    assert [(row[0].removeprefix("| "), row[4]) for row in columns] == wanted
