"""Problems that are no texts, with a Rex that an untrained policy can have."""

import types

import numpy as np
from ml_collections import ConfigDict

from pav_jax.gemma.architecture import tiny_gemma2

VOCAB, END, NEWLINES = 24, 3, (4, 9, 17, 20)
ARCHITECTURE = tiny_gemma2(
    VOCAB, num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=1, mlp_dim=24, window=5
)


class ToyProblems:
    """Problems as `Problems` has them; the config has `sampling` and `limits`."""

    architecture = ARCHITECTURE
    dtype = np.float32
    is_step_end = np.isin(np.arange(VOCAB), NEWLINES)
    tokenizer = types.SimpleNamespace(end_ids=(END,))
    prompts = ((1, 2, 5, 7), (8, 1, 6), (2, 2, 2, 2, 2), (7, 5, 1), (1,))

    def __init__(self, config: ConfigDict):
        self.config = config

    def __len__(self):
        return len(self.prompts)

    def __getitem__(self, index):
        return types.SimpleNamespace(id=1000 + index)

    def are_correct(self, responses):
        return [(sum(tokens) + problem) % 2 == 0 for problem, tokens in responses]

    def answers(self, responses):
        return [str(sum(response.tokens)) for response in responses]
