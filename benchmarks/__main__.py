"""Runs all benchmarks that compare, and writes their table into README.md.

make benchmarks
"""

import re
import time
from pathlib import Path

from benchmarks import (
    beam_search,
    best_of_n,
    harness,
    labelling,
    scoring,
    sft,
    verifier_training,
)

README = Path(__file__).with_name("README.md")
# The largest model last: what is done is in the table already.
_MODULES = (scoring, verifier_training, beam_search, best_of_n, labelling, sft)


def main() -> None:
    found: list[dict[str, object]] = []
    for module in _MODULES:
        start = time.perf_counter()
        found += module.main()
        seconds = time.perf_counter() - start
        print(f"{module.__name__}: {seconds:.0f} s in all", flush=True)
        _write(found)


def _write(found: list[dict[str, object]]) -> None:
    """Puts the table in place of the one that is there."""
    text = README.read_text()
    mark = "<!-- {} of the table that `make benchmarks` writes -->"
    begin, end = mark.format("begin"), mark.format("end")
    new = f"{begin}\n{harness.table(found)}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    README.write_text(pattern.sub(lambda _: new, text))


if __name__ == "__main__":
    main()
