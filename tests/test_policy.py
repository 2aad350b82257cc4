"""Where a policy's parameters come from, and the rows of fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import byte_tokenizer, gemma_like_tokenizer, random_params

from pav_jax import policy
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response
from pav_jax.gemma import checkpoint, forward, sizes

TINY = dict(num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24)
VOCABULARY = 40


def model(**fields) -> ConfigDict:
    return ConfigDict(fields).lock()


def test_the_policy_starts_from_a_checkpoint(tmp_path):
    architecture = sizes.from_config(model(**TINY), VOCABULARY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: forward.init_params(jax.random.key(0), architecture)),
    )
    checkpoint.write(tmp_path / "it", params, architecture=architecture)

    said = model(**TINY, checkpoint=str(tmp_path / "it"), dtype="bfloat16")
    assert sizes.from_config(said, VOCABULARY) == architecture
    read = policy.initial_policy(said, architecture, seed=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
        read,
        params,
    )
    assert read["embed"].dtype == jnp.bfloat16

    with pytest.raises(UserError, match="there is no checkpoint folder"):
        absent = model(**TINY, checkpoint=str(tmp_path / "absent"))
        policy.initial_policy(absent, architecture, seed=0)
    with pytest.raises(UserError, match="dtype is 'float8'"):
        policy.initial_policy(model(dtype="float8"), architecture, seed=0)


# Rows, and the loss on them.


def _response(prompt, tokens, correct):
    return Response(0, prompt, tokens, (0.0,) * len(tokens), correct)


def test_rft_rows():
    responses = [
        _response((2, 5), (7, 1), True),
        _response((2, 5), (8, 8, 1), False),
        _response((2, 5), (7, 1), True),  # sampled twice
        _response((2,), (7, 1), True),
        _response((2, 5), (9, 9, 1), True),
    ]
    rows = policy.rft_rows(responses)
    assert rows["tokens"].tolist() == [
        [2, 7, 1, 0, 0],
        [2, 5, 7, 1, 0],
        [2, 5, 9, 9, 1],
    ]
    assert rows["mask"].tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    with pytest.raises(UserError, match="none of 1 seed rollouts"):
        policy.rft_rows(responses[1:2])


def test_demonstrations_are_masked_to_the_solution_and_end():
    problems = [
        Problem("ab\n", "1", "c\nd"),
        Problem("a\n", "1", "cccccccc"),  # too long a solution
        Problem("aaaaaaaaaa\n", "1", "c"),  # too long a prompt
    ]
    tokenizer = byte_tokenizer()
    rows, dropped = policy.demonstrations(
        tokenizer, problems, max_prompt_tokens=6, max_tokens=5
    )
    assert dropped == 2
    (tokens,), (mask,) = rows["tokens"], rows["mask"]
    prompt = [tokenizer.bos_id, *tokenizer.encode("ab\n")]
    solution = [*tokenizer.encode("c\nd"), tokenizer.eos_id]
    assert tokens.tolist() == prompt + solution
    assert mask.tolist() == [0] * len(prompt) + [1] * len(solution)
    with pytest.raises(UserError, match="none of 1 demonstration fits"):
        policy.demonstrations(
            tokenizer, problems[1:2], max_prompt_tokens=6, max_tokens=5
        )


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem(" \n", "1", "c"), "empty prompt"),
        (Problem("a<mask>\n", "1", "c"), "<mask> is a control token"),
        (Problem("a\u2581\n", "1", "c"), "cannot represent '\u2581'"),
        (Problem("a\n", "1", "c<mask>"), "<mask> is a control token"),
    ],
)
def test_a_demonstration_that_is_no_text_is_not_a_long_one(problem, words):
    tokenizer = gemma_like_tokenizer(["<mask>"])
    problems = [Problem("ab\n", "1", "c\nd"), problem]
    with pytest.raises(UserError, match=words):
        policy.demonstrations(tokenizer, problems, max_prompt_tokens=9, max_tokens=9)


def test_sft_loss_is_the_mean_over_solution_tokens():
    architecture = sizes.from_config(model(**TINY), VOCABULARY)
    params = random_params(architecture)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, VOCABULARY, (2, 6))
    mask = np.array([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]], np.float32)
    batch = {"tokens": jnp.asarray(tokens), "mask": jnp.asarray(mask)}
    ours, _ = policy.sft_loss(params, batch, architecture=architecture)
    hidden = forward.hidden_states(params, batch["tokens"], architecture=architecture)
    logits = np.asarray(forward.logits(params, hidden, architecture=architecture))
    expected = []
    for row, place in zip(*np.nonzero(mask), strict=True):
        before = logits[row, place - 1].astype(np.float64)
        expected.append(np.log(np.sum(np.exp(before))) - before[tokens[row, place]])
    assert ours == pytest.approx(np.mean(expected), rel=1e-5)
