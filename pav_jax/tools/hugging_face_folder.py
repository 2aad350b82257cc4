"""A policy or a verifier as a Hugging Face folder, with the lines that open it.

A verifier's network is a model of its own; its head is in `head.safetensors`. A plain
head is also the model's classifier, so that programs that serve classifiers serve it.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from pav_jax.core.errors import UserError
from pav_jax.core.types import Params
from pav_jax.distributed import sharding
from pav_jax.gemma import hugging_face_writer as writer
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.formats import damage_is_a_user_error
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.gemma.tokenizer_json import tokenizer_files
from pav_jax.storage import artifacts
from pav_jax.verifier import head_of

HEAD = "head.safetensors"
CARD = "README.md"
# Of config.json, for a classifier.
_ONE_LABEL = {
    "id2label": {"0": "Q"},
    "label2id": {"Q": 0},
    "problem_type": "multi_label_classification",  # its activation is the sigmoid
}


def write(
    path: Path, params: Params, architecture: TransformerConfig, tokenizer: Tokenizer
) -> None:
    """Writes the folder.

    Args:
      path: a folder.
      params: of a policy, or of a verifier.
      architecture: of the network, with the embeddings of the tokenizer's tokens.
      tokenizer: of the network.

    Raises:
      UserError: transformers has no such architecture or tokenizer, or the folder
        cannot be written.
    """
    network, head = params.get("network", params), params.get("head")
    kind = head_of(head) if head else "policy"
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    suffix, others, tensors = "ForCausalLM", {}, {}
    if kind == "plain":
        suffix, others = "ForSequenceClassification", _ONE_LABEL
        tensors["score.weight"] = np.asarray(head["value"])[None]
    config = writer.config_json(
        architecture,
        dtype=str(network["embed"].dtype),
        suffix=suffix,
        others=ids | {"eos_token_id": tokenizer.eos_id} | others,
    )
    files = tokenizer_files(tokenizer)
    files["generation_config.json"] = ids | {"eos_token_id": list(tokenizer.end_ids)}
    writer.write(path, network, config, architecture=architecture, others=tensors)
    for name, content in files.items():
        artifacts.write_json(path / name, content)
    if head:
        writer.save_tensors(path / HEAD, jax.tree.map(np.asarray, head))
    card = _CARDS[kind].encode()
    artifacts.write_bytes(path / CARD, card)


def head_names(path: Path) -> set[str]:
    """The names of the arrays of a `head.safetensors`.

    Raises:
      UserError: it is damaged.
    """
    return set(_read(path))


def load_head(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """What is in a `head.safetensors`, as `like`, placed by `DECODE`.

    Raises:
      UserError: it is damaged, or of another architecture.
    """
    found = _read(path)
    shapes = {name: x.shape for name, x in found.items()}
    expected = {name: x.shape for name, x in like["head"].items()}
    if shapes != expected:
        raise UserError(
            f"{path} has the arrays {shapes}, where the architecture of the config"
            f" needs {expected}"
        )
    return jax.device_put({"head": found}, sharding.shardings(like, sharding.DECODE))


def _read(path: Path) -> dict[str, np.ndarray]:
    with damage_is_a_user_error(path):
        return safetensors.numpy.load_file(path)


# What README.md of the folder says.

_POLICY = """\
---
library_name: transformers
---

# A policy, trained by pav_jax

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
policy = AutoModelForCausalLM.from_pretrained(folder)


def respond(prompt, max_tokens=64):
    tokens = tokenizer(prompt.rstrip("\\n") + "\\n", return_tensors="pt")
    out = policy.generate(**tokens, max_new_tokens=max_tokens, do_sample=False)
    start = tokens.input_ids.shape[1]
    return tokenizer.decode(out[0, start:], skip_special_tokens=True)
```

A prompt begins with `<bos>`, which the tokenizer puts there, and ends in one newline.
"""

_VERIFIER = """\
---
library_name: transformers
---

# A verifier of steps, trained by pav_jax

It predicts `Q` after each step of a response: the probability that the policy that it
was trained on goes on from there to a correct answer (arXiv 2410.08146, Sec. 3).

```python
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)
network = AutoModel.from_pretrained(folder, dtype=torch.float32)
head = load_file(f"{folder}/head.safetensors")


@torch.no_grad()
def step_values(prompt, response):
    \"\"\"Q of the bare problem, and after each line of the response.\"\"\"
    start = tokenizer(prompt.rstrip("\\n") + "\\n").input_ids
    rest = tokenizer(response, add_special_tokens=False).input_ids
    rest.append(tokenizer.eos_token_id)
    hidden = network(torch.tensor([start + rest])).last_hidden_state[0]
HEAD
    ends = [i for i, token in enumerate(rest) if "\\n" in tokenizer.decode([token])]
    places = [-1, *ends, len(rest) - 1]
    return [logits[len(start) + place].sigmoid().item() for place in places]
```

The response has a step a line, no blank lines, and no newline at its end.
"""

_SUM = """\
    inner = hidden @ head["hidden"] + head["hidden_bias"]
    inner = torch.nn.functional.gelu(inner, approximate="tanh")
    logits = inner @ head["value"] + head["value_bias"]  # of the last token
    logits = logits + (inner @ head["evidence"]).cumsum(0)  # and of all up to it"""

_PLAIN = """\
    logits = hidden @ head["value"]"""

_SERVED = """
The head is also the model's classifier: `AutoModelForSequenceClassification` opens this
folder, and the sigmoid of its logit is Q after the last token.
"""

_CARDS = {
    "policy": _POLICY,
    "sum": _VERIFIER.replace("HEAD", _SUM),
    "plain": _VERIFIER.replace("HEAD", _PLAIN) + _SERVED,
}
