"""How many answers of MATH-500 are graded in a second: one line of JSON.

    python -m benchmarks.grading MATH500.jsonl

Each problem's answer is graded against four: the one in its solution, the same in other
spellings, a quotient that must be worked out, and another problem's. No pair is
graded twice, so that no cache helps. CPU seconds are those of this process; the
processes that do algebra are not counted.
"""

import argparse
import json
import re
import time

from pav_jax.tasks import algebra, grading
from pav_jax.tasks.answers import comparing, reading


def respell(answer: str) -> str:
    spaced = answer.replace("+", " + ").replace(r",\!", "{,}").replace("(", r"\left( ")
    return spaced.replace(r"\frac", r"\dfrac").replace(r"\dd", r"\d") + "."


def measure(pairs: list[tuple[str, str]]) -> dict:
    """Seconds for pairs of (gold, response), and how they were graded."""
    grading.compare.cache_clear()
    comparing.compare.cache_clear()
    reading.read.cache_clear()
    asked = algebra.workers().asked
    start, start_cpu = time.perf_counter(), time.process_time()
    grades = grading.grade_all(pairs)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {
        "answers": len(pairs),
        "answers_per_second": round(len(pairs) / seconds),
        "answers_per_cpu_second": round(len(pairs) / cpu),
        "to_algebra": algebra.workers().asked - asked,
        "grades": {g.value: grades.count(g) for g in dict.fromkeys(grades)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("math500")
    args = parser.parse_args()
    with open(args.math500) as file:
        rows = [json.loads(line) for line in file]
    golds = [row["answer"] for row in rows]
    shifted = golds[1:] + golds[:1]
    # Equal after some algebra, by construction: the costliest honest answers. They come
    # first, so that the processes have started and warmed up before the rest.
    sets = {
        "algebra": [
            (gold, rf"\boxed{{\frac{{({gold})^2-2}}{{{gold}+\sqrt2}}+\sqrt2}}")
            for gold in dict.fromkeys(golds)
            if reading.read(gold)[0] == "value"
            and re.search("[-+0-9]", gold)
            and not re.search("[=_%$]|text|mbox|circ|matrix", gold)
        ],
        "solution": [(row["answer"], row["solution"]) for row in rows],
        "respelt": [(g, rf"\boxed{{{respell(g)}}}") for g in golds],
        "of_another": [
            (g, rf"\boxed{{{a}}}") for g, a in zip(golds, shifted, strict=True)
        ],
    }
    sets["ordinary"] = sets["solution"] + sets["respelt"] + sets["of_another"]
    found = {name: measure(pairs) for name, pairs in sets.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
