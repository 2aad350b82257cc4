"""The report: complete, self-contained, safe with hostile text, deterministic."""

import copy
import html.parser
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from pav_jax.report import methods, page, summary, text

_HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=x>"


def _curve(method, values, tokens):
    return [
        {
            "method": method,
            "n": n,
            "accuracy": value,
            "ci": [value - 0.041, value + 0.041],
            "tokens": tokens * n**0.97,
            "decoded": tokens * n * 0.71,
            "prefilled": 64.0,
            "scored": tokens * n * 0.26,
        }
        for n, value in values.items()
    ]


def _estimate(value):
    """Of two seeds."""
    return {
        "accuracy": value,
        "seed_interval": [value - 0.07, value + 0.07],
        "seeds": [value - 0.0055, value + 0.0055],
    }


def _policy(accuracy, greedy, length):
    return {
        "sampled": _estimate(accuracy),
        "greedy": _estimate(greedy),
        "pass_at": {"1": _estimate(accuracy), "8": _estimate(accuracy + 0.217)},
        "best_of": {"1": _estimate(accuracy), "8": _estimate(accuracy + 0.113)},
        "length": length,
    }


def _learning(first, *rest):
    """Accuracy of two seeds at each measurement."""
    means = [first, *rest]
    return {
        "step": [20 * i for i in range(len(means))],
        "tokens": [58_000 * i for i in range(len(means))],
        **{
            key: {
                "mean": means,
                "seeds": [[m - 0.0123 for m in means], [m + 0.0123 for m in means]],
            }
            for key in ("greedy", "sampled")
        },
    }


def _tokens(decoded, prefilled, scored):
    return dict(decoded=decoded, prefilled=prefilled, scored=scored)


IMPROVEMENT = {
    "problems": 192,
    "curve_problems": 320,
    "samples": 8,
    "seeds": [0, 1],
    "policies": {
        "sft": _policy(0.281, 0.302, 45),
        "rft": _policy(0.297, 0.315, 44),
        "orm_rl": _policy(0.352, 0.366, 46),
        "pav_rl": _policy(0.431, 0.447, 47),
        "restating": _policy(0.041, 0.038, 63),
    },
    "curves": {
        "orm_rl": _learning(0.297, 0.321, 0.352),
        "pav_rl": _learning(0.297, 0.384, 0.431),
        "restating": _learning(0.297, 0.162, 0.041),
    },
    "against": {
        "reference": "orm_rl",
        "accuracy": 0.352,
        "methods": {
            "sft": {"gain": -0.071, "seed_interval": [-0.102, -0.041]},
            "rft": {"gain": -0.055, "seed_interval": [-0.085, -0.024]},
            "orm_rl": {
                "gain": 0.0,
                "seed_interval": None,
                "sooner": 1.0,
                "cheaper": 1.0,
            },
            "pav_rl": {
                "gain": 0.0793,
                "seed_interval": [0.0443, 0.1151],
                "sooner": 3.71,
                "cheaper": 3.28,
            },
            "restating": {
                "gain": -0.311,
                "seed_interval": [-0.36, -0.262],
                "sooner": None,
                "cheaper": None,
            },
        },
    },
    "unsolved": {
        "problems": 37,
        "samples": 12,
        "best_of": {"sft": {"1": 0.0, "8": 0.0}, "pav_rl": {"1": 0.067, "8": 0.243}},
        "best_of_tokens": {
            method: {"1": _tokens(60, 50, 110), "8": _tokens(480, 50, 530)}
            for method in ("sft", "pav_rl")
        },
        "beam": {"sft": {"8": 0.081}, "pav_rl": {"8": 0.378}},
        "beam_tokens": {
            "sft": {"8": _tokens(1312, 50, 1362)},
            "pav_rl": {"8": _tokens(1204, 50, 1254)},
        },
    },
}


def _results():
    """A plausible run, with every entry there is."""
    search = [
        *_curve("greedy", {1: 0.334}, 71.2),
        *_curve("majority", {2: 0.315, 4: 0.362, 8: 0.391, 16: 0.408, 32: 0.413}, 70),
        *_curve(
            "best_of_n_orm", {2: 0.352, 4: 0.393, 8: 0.424, 16: 0.441, 32: 0.447}, 93
        ),
        *_curve(
            "best_of_n_pav", {2: 0.361, 4: 0.409, 8: 0.446, 16: 0.468, 32: 0.481}, 96
        ),
        *_curve("beam_q", {2: 0.381, 4: 0.432, 8: 0.463, 16: 0.487, 32: 0.492}, 171),
        *_curve("beam_pav", {2: 0.397, 4: 0.462, 8: 0.511, 16: 0.543, 32: 0.556}, 174),
        *_curve("beam_oracle", {4: 0.581, 16: 0.702}, 181),
        *_curve("pass_at_n", {2: 0.43, 4: 0.541, 8: 0.637, 16: 0.713, 32: 0.771}, 70),
    ]
    return {
        "task": "arithmetic",
        "description": "Chains of sums and products, one operation a line.",
        "base": {
            "accuracy": 0.3125,
            "ci": [0.278, 0.347],
            "greedy": 0.334,
            "pass_at": {"16": 0.713},
            "failures": {
                "correct": 0.3125,
                "wrong_arithmetic": 0.421,
                "wrong_operand": 0.1435,
                "no_answer": 0.091,
                "too_long": 0.032,
            },
            "grades": {
                "correct": 1250,
                "wrong": 2343,
                "unparsed": 391,
                "timed_out": 16,
            },
        },
        "verifier": {
            "auc_within_problem": {
                "last": 0.913,
                "middle": 0.774,
                "error_so_far": 0.862,
                "by_step": [0.553, 0.641, 0.718, 0.774, 0.829, 0.871, None, 0.913],
            },
            "brier": 0.0834,
            "calibration": [
                {"predicted": 0.031, "observed": 0.022, "count": 8412},
                {"predicted": 0.148, "observed": 0.173, "count": 3120},
                {"predicted": 0.251, "observed": 0.214, "count": 1530},
                {"predicted": 0.349, "observed": 0.372, "count": 1216},
                {"predicted": 0.452, "observed": 0.496, "count": 1033},
                {"predicted": 0.553, "observed": 0.529, "count": 988},
                {"predicted": 0.648, "observed": 0.611, "count": 1107},
                {"predicted": 0.751, "observed": 0.772, "count": 1388},
                {"predicted": 0.852, "observed": 0.881, "count": 1904},
                {"predicted": 0.968, "observed": 0.955, "count": 4310},
            ],
            "orm": {"auc_last": 0.871},
        },
        "search": search,
        "alpha": {
            "chosen": 0.4,
            "grid": [
                {"alpha": a / 10, "accuracy": v, "ci": [v - 0.05, v + 0.05]}
                for a, v in enumerate(
                    (0.478, 0.494, 0.517, 0.531, 0.539, 0.534, 0.526, 0.502, 0.483)
                )
            ],
        },
        "compute_efficiency": {
            "reference": "best_of_n_orm best accuracy",
            "accuracy": 0.447,
            "beam_q": 2.91,
            "beam_pav": 5.37,
            "points_at_equal_tokens": {"beam_q": 0.0381, "beam_pav": 0.0967},
            "points_ci": {"beam_q": [-0.004, 0.081], "beam_pav": [0.052, 0.141]},
        },
        "improvement": copy.deepcopy(IMPROVEMENT),
        "theory": {
            "provers": [
                {"prover": "π", "distinguishability": 0.0121, "alignment": 0.0121},
                {"prover": "Bo2", "distinguishability": 0.0243, "alignment": 0.0164},
                {"prover": "Bo4", "distinguishability": 0.0412, "alignment": 0.0187},
                {"prover": "Bo8", "distinguishability": 0.0457, "alignment": 0.0143},
                {"prover": "Bo16", "distinguishability": 0.0318, "alignment": 0.0072},
                {"prover": "Bo32", "distinguishability": 0.0174, "alignment": -0.0031},
            ]
        },
        "stages": {
            "sft": 74.3,
            "label": 412.8,
            "verifier": 188.1,
            "theory": 0.4,
            "search": 264.9,
        },
        "ledger": {
            "label": {
                "decoded": 4812331,
                "prefilled": 91244,
                "scored": 0,
                "trained": 0,
            },
            "verifier": {"scored": 12044, "trained": 2048003},
            "search": {"decoded": 1733021, "prefilled": 16384, "scored": 640112},
        },
        "config": {
            "policy": {"layers": 4, "width": 128},
            "search": {"beams": [2, 4, 8, 16, 32], "expand": 3},
        },
        "seeds": {"data": 7, "sampling": 11},
        "versions": {"jax": "0.6.2", "pav_jax": "0.1.0"},
        "problems": 256,
    }


def _responses():
    """One right response, one that falls into a pit, one with little known."""
    return [
        {
            "prompt": "a = 3; b = a + 4; c = b * 2; d = c - 5. What is d?\n",
            "answer": "9",
            "correct": True,
            "steps": [
                {"text": "b = 3 + 4 = 7\n", "q": 0.512, "advantage": 0.11, "q_mc": 0.6},
                {"text": "c = 7 * 2 = 14", "q": 0.771, "advantage": 0.24, "q_mc": 0.75},
                {"text": "d = 14 - 5 = 9", "q": 0.968, "advantage": 0.19, "q_mc": 1.0},
                {"text": "answer: 9", "q": 0.991, "advantage": 0.01, "q_mc": 1.0},
            ],
        },
        {
            "prompt": "x = 8; y = x * 7; z = y - x; w = z + z. What is w?",
            "answer": "96",
            "correct": False,
            "steps": [
                {"text": "y = 8 * 7 = 56", "q": 0.62, "advantage": 0.204, "q_mc": 0.55},
                {"text": "z = 56 - 8 = 46", "q": 0.08, "advantage": -0.49, "q_mc": 0.0},
                {"text": "w = 46 + 46 = 92", "q": 0.03, "advantage": -0.03, "q_mc": 0},
                {"text": "answer: 92", "q": 0.01, "advantage": -0.01, "q_mc": 0.0},
            ],
        },
        {
            "prompt": "p = 5; q = p + p. What is q?",
            "answer": "10",
            "correct": False,
            "steps": [{"text": "", "q": 0.3, "advantage": -0.02, "q_mc": None}],
        },
    ]


@pytest.fixture
def results():
    return _results()


@pytest.fixture
def responses():
    return _responses()


@pytest.fixture(scope="module")
def markup():
    """The page of an unchanged run, drawn once."""
    return _page(_results(), _responses())


def _page(results, responses):
    return page.page(page.plain(results), page.plain(responses))


def _words(markup):
    """The text of the page outside its style, entities resolved."""
    found = []

    class Reader(html.parser.HTMLParser):
        skip = False

        def handle_starttag(self, tag, attrs):
            self.skip = tag == "style"

        def handle_data(self, data):
            if not self.skip:
                found.append(data)

        def handle_endtag(self, tag):
            self.skip = False

    Reader().feed(markup)
    return "\n".join(found)


def test_every_number_is_on_the_page(results, responses, markup):
    words = _words(markup)
    base, verifier = results["base"], results["verifier"]
    auc, efficiency = verifier["auc_within_problem"], results["compute_efficiency"]
    expected = [
        text.percent(base["accuracy"]),
        text.percent(base["greedy"]),
        text.interval(base["ci"]),
        text.percent(base["pass_at"]["16"]),
        *(text.percent(share) for share in base["failures"].values()),
        *(text.count(count) for count in base["grades"].values()),
        *(text.percent(count / 4000) for count in base["grades"].values()),
        "Timed out",
        "Intervals are over the problems of this one run",
        *(text.decimal(auc[key], 3) for key in ("last", "middle", "error_so_far")),
        *(text.decimal(value, 3) for value in auc["by_step"]),
        text.decimal(verifier["brier"], 4),
        text.decimal(verifier["orm"]["auc_last"], 3),
        text.percent(efficiency["accuracy"]),
        *(text.ratio(efficiency[key]) for key in ("beam_q", "beam_pav")),
        *(text.points(v) for v in efficiency["points_at_equal_tokens"].values()),
        *(text.points_interval(v) for v in efficiency["points_ci"].values()),
        *(text.duration(spent) for spent in results["stages"].values()),
        text.count(results["problems"]),
        "policy.layers",
        "policy.width",
        "128",
        "[2, 4, 8, 16, 32]",
        "sampling",
        "0.6.2",
    ]
    for row in results["search"]:
        expected += [text.percent(row["accuracy"]), text.interval(row["ci"])]
        expected += [
            text.count(row[key]) for key in ("tokens", "decoded", "prefilled", "scored")
        ]
    for row in results["alpha"]["grid"]:
        expected += [text.percent(row["accuracy"]), text.interval(row["ci"])]
    for row in verifier["calibration"]:
        expected += [text.decimal(row[key], 3) for key in ("predicted", "observed")]
        expected.append(text.count(row["count"]))
    for row in results["theory"]["provers"]:
        expected += [
            row["prover"],
            text.decimal(row["distinguishability"], 4),
            text.decimal(row["alignment"], 4),
        ]
    improvement = results["improvement"]
    for policy in improvement["policies"].values():
        expected += [
            text.percent(policy["sampled"]["accuracy"]),
            text.percent(policy["greedy"]["accuracy"]),
            text.count(policy["length"]),
        ]
    for row in improvement["against"]["methods"].values():
        expected += [text.points(row["gain"])]
        expected.append(text.points_interval(row["seed_interval"]))
        expected += [text.ratio(row.get(key)) for key in ("sooner", "cheaper")]
    expected += ["PAV-RL", "ORM-RL", "Restating", "192 test problems", "37 problems"]
    expected += ["320 test problems"]
    expected += [text.percent(0.243), text.percent(0.067)]
    for curve in improvement["curves"].values():  # what points say when pointed at
        expected += [
            f"{place:,} {unit}: {text.percent(mean)}"
            for key, unit in (("step", "iterations"), ("tokens", "sampled tokens"))
            for place, mean in zip(curve[key], curve["sampled"]["mean"], strict=True)
        ]
    for spent in results["ledger"].values():
        expected += [text.count(tokens) for tokens in spent.values()]
    for response in responses:
        for step in response["steps"]:
            expected += [
                step["text"].strip() or "(empty)",
                f"Q {text.decimal(step['q'])}",
                text.decimal(step["advantage"], signed=True),
            ]
            if step["q_mc"] is not None:
                expected.append(f"MC {text.decimal(step['q_mc'])}")
    missing = [value for value in expected if value not in words]
    assert not missing


def test_hostile_text_is_only_text(results, responses):
    responses[0]["prompt"] = responses[0]["answer"] = _HOSTILE
    responses[0]["steps"][0]["text"] = _HOSTILE + "\x00\x1b\ud800\u202eabc"
    results["task"] = results["description"] = _HOSTILE
    results["search"] += _curve(_HOSTILE, {2: 0.5, 4: 0.6}, 100)
    results["stages"][_HOSTILE] = 1.0
    results["theory"]["provers"][0]["prover"] = _HOSTILE
    results["config"][_HOSTILE] = _HOSTILE
    improvement = results["improvement"]
    improvement["policies"][_HOSTILE] = improvement["policies"].pop("restating")
    improvement["curves"][_HOSTILE] = improvement["curves"].pop("restating")
    improvement["unsolved"]["best_of"][_HOSTILE] = {"1": 0.0, _HOSTILE: 0.0}
    improvement["unsolved"]["beam"]["sft"] = {_HOSTILE: 0.0}
    improvement["unsolved"]["beam_tokens"][_HOSTILE] = {_HOSTILE: _tokens(1, 2, 3)}
    results["base"]["failures"][_HOSTILE] = 0.01
    results["base"]["grades"][_HOSTILE] = 1
    markup = _page(results, responses)
    tags = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    Reader().feed(markup)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in tags}
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    assert _HOSTILE in _words(markup)
    assert "\x00" not in markup and "\u202e" not in markup


def test_page_loads_nothing(markup):
    assert set(re.findall(r"https?://[^\"'\s<)]+", markup)) == {
        "https://arxiv.org/abs/2410.08146"
    }
    assert not re.search(r"@import|\bsrc=|url\((?!#)", markup)
    assert "default-src 'none'" in markup
    links = re.findall(r'<link[^>]*href="([^"]*)"', markup)
    assert links == ["data:,"]


def test_ids_are_unique_and_all_references_resolve(markup):
    ids = re.findall(r'\bid="([^"]+)"', markup)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', markup)) <= set(ids)


def test_figures_take_their_colours_and_font_from_the_page(markup):
    style, body = markup.split("</style>", 1)
    assert not re.search(r"#[0-9a-f]{6}\b", body)
    assert "DejaVu" not in body
    defined = set(re.findall(r"(--[\w-]+):", style))
    assert set(re.findall(r"var\((--[\w-]+)\)", body)) <= defined


def test_results_round_trip_as_strict_json(results):
    results["base"]["accuracy"] = math.nan
    results["search"][3]["ci"] = (math.nan, math.inf)
    results["verifier"]["brier"] = np.float32(0.25)
    results["problems"] = np.int64(256)
    results["verifier"]["auc_within_problem"]["by_step"] = np.array([0.5, np.nan])
    written = json.dumps(page.plain(results), allow_nan=False)
    found = json.loads(written)
    assert list(found) == list(results)
    assert found["base"]["accuracy"] is None
    assert found["search"][3]["ci"] == [None, None]
    assert found["verifier"]["brier"] == 0.25
    assert found["verifier"]["auc_within_problem"]["by_step"] == [0.5, None]
    assert found["problems"] == 256
    assert found["search"][0] == results["search"][0]


def test_same_results_same_bytes(results, responses, markup):
    assert _page(results, responses) == markup


_OPTIONAL = ("theory", "ledger", "versions", "seeds", "description", "problems")


def test_optional_entries_may_be_missing(results):
    for key in _OPTIONAL:
        del results[key]
    del results["base"]["failures"], results["base"]["grades"]
    del results["compute_efficiency"]["points_ci"]
    markup = _page(results, [])
    words = _words(markup)
    assert "None" not in words and "nan" not in words
    assert not re.findall(r'<section id="(prover|steps|base)"', markup)
    assert "each accuracy is known to about ±4.1" in words


@pytest.mark.parametrize(
    "key",
    "base verifier search alpha compute_efficiency theory stages ledger config".split(),
)
def test_every_entry_can_stand_alone(results, key):
    words = _words(_page({"task": "bare", key: results[key]}, []))
    assert "None" not in words and "nan" not in words


def _nothing(value):
    """The same nesting, with None for every number and no interval whole."""
    if isinstance(value, dict):
        return {k: v if k == "n" else _nothing(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_nothing(item) for item in value]
    return math.nan if isinstance(value, float | int) else value


def test_numbers_may_all_be_nan(results, responses):
    for key in ("config", "seeds"):
        del results[key]
    words = _words(_page(_nothing(results), _nothing(responses)))
    assert "None" not in words and "nan" not in words


@pytest.mark.parametrize(
    ("difference", "bounds", "said"),
    [
        (0.0967, [0.052, 0.141], "9.7 points above"),
        (-0.0312, [-0.061, -0.002], "3.1 points below"),
        (0.0002, [-0.03, 0.03], "level with"),
    ],
)
def test_the_summary_follows_the_sign(results, difference, bounds, said):
    efficiency = results["compute_efficiency"]
    efficiency["points_at_equal_tokens"]["beam_pav"] = difference
    efficiency["points_ci"]["beam_pav"] = bounds
    line = summary.headline(results)
    assert said in line
    assert ("leaves the sign open" in line) == (bounds[0] < 0 < bounds[1])


def test_the_summary_says_when_no_beam_is_shown_to_get_there(results):
    results["compute_efficiency"]["beam_pav"] = None
    results["compute_efficiency"]["beam_q"] = 0.5
    said = summary.paragraph(results)
    assert "is not shown to reach the best 44.7% of these" in said
    assert "with 2.0× more tokens" in said


def test_a_beam_above_the_reference_is_not_said_to_be_below_it(results):
    """Its 95% interval may have a part below zero, so that it is not shown."""
    del results["improvement"]
    efficiency, said = results["compute_efficiency"], ""
    for saved in (dict(beam_pav=None), dict(beam_pav=2.0, beam_q=None)):
        efficiency.update(saved)
        efficiency["paper"] = dict(efficiency, paper=None, reference="best_of_n_orm")
        words = " ".join(_words(_page(results, [])).split())
        assert words.count("A beam is shown to reach it where no part of the 95%") == 1
        said += f" {words}"
    assert "To equal the strongest not shown beam by" in said
    assert "is not shown to reach the best 44.7% of these" in said
    assert "Not shown to reach it at any N" in said
    assert "is not shown to reach it at any N" in said
    for wrong in ("does not reach", "not reached", "never"):
        assert wrong not in said.lower()


def test_nouns_agree_with_their_numbers(results, markup):
    improvement = results["improvement"]
    results["problems"] = improvement["problems"] = improvement["curve_problems"] = 1
    del improvement["seeds"][1:]
    one, many = _words(_page(results, [])), _words(markup)
    assert "of 1 test problem with one sample" in one
    assert "of 256 test problems with one sample" in many
    assert one.count("over 1 test problem.") == 3
    assert many.count("over 256 test problems.") == 3
    assert "policies on 1 test problem, means over 1 RL seed." in one
    assert "policies on 192 test problems, means over 2 RL seeds." in many


def test_intervals_of_rl_are_over_seeds(results, markup):
    many = _words(markup)
    assert many.count("95% t-intervals over these seeds") == 2
    assert "+4.4 to +11.5" in many and "There is no interval" not in many
    # A band of few seeds ends where accuracies do.
    passed = results["improvement"]["policies"]["restating"]["pass_at"]["1"]
    assert passed["seed_interval"][0] < 0
    assert "Restating, N = 1: 4.1% (0.0–11.1%)" in many
    improvement = results["improvement"]
    del improvement["seeds"][1:]
    for row in improvement["against"]["methods"].values():
        row["seed_interval"] = None
    one = _words(_page(results, []))
    assert one.count("There is no interval: one seed") == 2
    assert "t-intervals" not in one and "+4.4 to +11.5" not in one


def test_what_chose_the_unsolved_problems_is_said(results, markup):
    assert "Chosen by 12 samples of the SFT policy" in _words(markup)
    del results["improvement"]["unsolved"]["samples"]  # of an earlier version
    words = _words(_page(results, []))
    assert "37 problems without" in words and "Chosen by" not in words


def _cells(markup, row):
    """The cells of the rows of that name in all tables, each a list."""
    rows = re.findall(rf'<tr><th scope="row">{row}</th>(.*?)</tr>', markup)
    return [re.findall(r"<td>(.*?)</td>", found) for found in rows]


def test_beams_on_the_unsolved_problems(results, markup):
    """Beside best-of-N; then the tokens of both, for the N of the beams."""
    assert "Beam of 8 by Q<sup>π</sup>" in markup
    found = _cells(markup, "PAV-RL")
    assert ["6.7%", "24.3%", "37.8%"] in found
    assert ["1,060", "2,508"] in found  # 480 + 50 + 530, and 1,204 + 50 + 1,254
    assert ["0.0%", "0.0%", "8.1%"] in _cells(markup, "SFT")
    unsolved = results["improvement"]["unsolved"]
    del unsolved["beam"]["sft"]
    assert ["0.0%", "0.0%", "–"] in _cells(_page(results, []), "SFT")
    for key in ("beam", "beam_tokens", "best_of_tokens"):  # of a run without beams
        del unsolved[key]
    words = _words(_page(results, []))
    assert "37 problems without" in words
    assert "Beam of" not in words and "that a beam drops" not in words


def test_the_problems_of_rl_are_named(results):
    results["improvement"]["config"] = {"measured": "validation"}
    words = _words(_page(results, []))
    assert "192 validation problems" in words and "320 validation problems" in words


def test_methods_with_a_verifier_of_their_own_are_named(results, markup):
    one = "start from the same RFT policy and the same verifier: seeds differ"
    assert one in _words(markup)
    methods = {
        "orm_rl": {"reward": "outcome", "baseline": "value"},
        "pav_rl": {"reward": "progress", "baseline": "value", "prover": ""},
    }
    results["improvement"]["config"] = {"methods": methods}
    assert one in _words(_page(results, []))
    methods["pav_rl"]["prover"] = "mu"
    methods["restating"] = {"reward": "value", "prover": _HOSTILE}
    page = _page(results, [])
    assert "<script>alert" not in page
    assert (
        "and the same verifier, but for PAV-RL (that of prover mu), Restating (that of"
        " prover "
    ) in _words(page)


def test_the_page_speaks_of_an_arrow_only_where_there_is_one(results, markup):
    efficiency = results["compute_efficiency"] | {"beam_pav": None}
    without = {"search": results["search"], "compute_efficiency": efficiency}
    assert "The arrow" in _words(markup)
    assert "The arrow" not in _words(_page(without, []))


def test_the_page_calls_no_verifier_fixed(markup):
    assert not re.search(r"frozen|stays fixed", _words(markup))


def test_numbers_are_written_plainly():
    assert text.decimal(-0.001, signed=True) == "0.00"
    assert text.points(-0.0312) == "−3.1"
    assert text.duration(59.97) == "1 min 00 s"
    assert text.duration(3725) == "1 h 02 min"
    assert text.fewer(1.0) == "1.0× as many"


def test_importing_the_report_imports_no_heavy_package():
    script = (
        "import sys; import pav_jax.report.page; "
        "print({'matplotlib', 'jax', 'tensorflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_methods_of_other_provers_are_named():
    keys = ("beam_q", "beam_pav_mu", "beam_q_mu", "beam_diverse", "beam_bo4")
    found = methods.ordered(keys)
    assert {method.key: method.label for method in found} == {
        "beam_q": "Beam by Q^π",
        "beam_pav_mu": "Beam by Q^π + αA^μ, μ = mu",
        "beam_q_mu": "Beam by Q^μ, μ = mu",
        "beam_diverse": "Beam in subtrees",
        "beam_bo4": "Beam by Q^π + αA^μ, μ = Bo4",
    }
