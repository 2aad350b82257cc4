"""The card of exported step labels: what the hub shows, and where their files are.

`datasets` reads files of one kind in a folder, so the head names the Parquet files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_CARD = """\
---
pretty_name: Step labels of {name}
tags:
- process-reward-model
- math-reasoning
configs:
- config_name: prefixes
  default: true
  data_files: prefixes/*.parquet
---

# Step labels of {name}

Monte Carlo labels of step prefixes, as in *Rewarding Progress* (arXiv 2410.08146,
Sec. 4.2), made by pav_jax. After each step of a response a prover continued `count`
times, and `correct` of these continuations ended in the right answer. So
`correct / count` estimates the prover's value there, and with few continuations it is a
coarse estimate; counts are kept, so that a loss can weigh them.

| stage | prover | n_mc | task | temperature | seed | responses | labels | policy |
|---|---|---|---|---|---|---|---|---|
{rows}

The prover π is the policy that wrote the responses; others are of `config.provers` of
the run, and may have written some themselves. Labels of different provers are values of
different policies: do not mix them. `n_mc` is the number of continuations of a prefix,
and `policy` the fingerprint of the parameters that continued, as in the run's manifest.

## Load it

```python
import datasets, pandas

labels = datasets.load_dataset("THIS_FOLDER")["train"]
lines = "THIS_FOLDER/responses/labels.jsonl"
responses = datasets.load_dataset("json", data_files=lines)["train"]
frame = pandas.read_parquet("THIS_FOLDER/prefixes")
```

`pav import --from=jsonl --input=THIS_FOLDER/responses/labels.jsonl --output=DIR` makes
it input of a run again.

## Columns

`prefixes`, a row for each label:

| column | what it is |
|---|---|
| `problem_id` | a hash of the prompt |
| `response_id` | of the response, counted within the labels of one prover |
| `kind` | `rollout`; or `first_pit`, of App. D: more draws for states of high value |
| `step` | steps in the prefix; 0 is the bare prompt |
| `is_whole` | the prefix is the whole response: the label is its own outcome |
| `correct`, `count` | k of n |
| `prompt`, `prefix` | the texts; the prefix is of the response alone |
| `prompt_tokens`, `prefix_tokens` | the same as token ids of `tokenizer.model` |
| `prover`, `seed`, `policy` | whose continuations they are |

`responses`, a row a response: `prompt`; `steps`, as a list; `correct` and `count` of
each (a count of 0 is no label) and of the bare prompt (`prompt_correct`,
`prompt_count`); `finished`, whether it ends with the end token; `outcome`, whether its
answer is right; `tokens`, with `ends`, those up to the end of each prefix.

## Terms

The terms of the problems and of the policy's weights apply to texts that were made with
them; add the `license` that follows to the head before you publish this.
"""


def text(name: str, sources: Sequence[tuple[Mapping[str, Any], Mapping]]) -> str:
    """The card, in Markdown.

    Args:
      name: of the experiment.
      sources: of each stage that labelled what is known of it (`stage`, `prover`,
        `n_mc`, `task`, `temperature`, `seed`, `policy`), and how many `responses` and
        `labels` it has.
    """
    rows = []
    for about, tally in sources:
        cells = [f"`{about['stage']}`", about["prover"], about["n_mc"], about["task"]]
        cells += [f"{about['temperature']:g}", about["seed"]]
        cells += [tally["responses"], tally["labels"]]
        cells.append(about["policy"] or "of another run")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return _CARD.format(name=name, rows="\n".join(rows))
