"""Runs all benchmarks that compare, and writes their table into README.md.

make benchmarks
"""

import re
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
_MODULES = (scoring, verifier_training, sft, beam_search, best_of_n, labelling)


def main() -> None:
    found = [row for module in _MODULES for row in module.main()]
    text = README.read_text()
    mark = "<!-- {} of the table that `make benchmarks` writes -->"
    begin, end = mark.format("begin"), mark.format("end")
    new = f"{begin}\n{harness.table(found)}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    README.write_text(pattern.sub(lambda _: new, text))


if __name__ == "__main__":
    main()
