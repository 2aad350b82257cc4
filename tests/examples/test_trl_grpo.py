"""The example for TRL, by one step of its GRPO trainer on a tiny random model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny import random_verifier

REASON = "trl is not in requirements.lock; make peers installs it in .venv-peers"
pytest.importorskip("trl", reason=REASON)

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, decoders, models  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from pav_jax import step_rewards  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "trl_grpo.py"
ALPHA, K, GROUP, LENGTH = 3.0, 2, 4, 12
# Few, so that samples have lines; one token goes over the end of a step.
PIECES = ["<pad>", "<eos>", "a", "b", "?", "\n", "a\nb", "1"]


def _tokenizer():
    vocab = {piece: index for index, piece in enumerate([*PIECES, "a\n"])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "\n"), ("a\n", "b")]))
    made.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>"
    )


def _outcome(completions, **_):
    return [float("1" in text) for text in completions]


def test_one_step_of_training(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("trl_grpo", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    tokenizer, verifier = _tokenizer(), random_verifier()
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64
        )
    )
    before = [value.detach().clone() for value in model.parameters()]
    trainer = example.StepCreditTrainer(
        model=model,
        reward_funcs=_outcome,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2 * GROUP,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            max_steps=1,
            learning_rate=0.1,
            warmup_steps=0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"prompt": "a?"}, {"prompt": "b?"}]),
        processing_class=tokenizer,
        verifier=verifier,
        alpha=ALPHA,
        prover_k=K,
    )
    seen = []
    made, loss = trainer._generate_and_score_completions, trainer._compute_loss

    def noting(inputs):
        seen.append((inputs, made(inputs)))
        return dict(seen[-1][1])

    def with_shape(model, inputs):
        assert inputs["advantages"].shape == inputs["completion_ids"].shape
        return loss(model, inputs)

    monkeypatch.setattr(trainer, "_generate_and_score_completions", noting)
    monkeypatch.setattr(trainer, "_compute_loss", with_shape)
    result = trainer.train()
    assert np.isfinite(result.training_loss)
    pairs = zip(before, model.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)

    ((inputs, output),) = seen
    rows = [
        [
            PIECES[i] if i < len(PIECES) else "a\n"
            for i, m in zip(*row, strict=True)
            if m
        ]
        for row in zip(
            output["completion_ids"].tolist(),
            output["completion_mask"].tolist(),
            strict=True,
        )
    ]
    texts = [[p for p in row if not p.startswith("<")] for row in rows]
    outcome = np.array([float("1" in "".join(text)) for text in texts])
    groups = outcome.reshape(-1, GROUP)
    relative = (groups - groups.mean(1, keepdims=True)) / (
        groups.std(1, ddof=1, keepdims=True) + 1e-4
    )
    found = step_rewards(
        [row["prompt"] for row in inputs],
        ["".join(text) for text in texts],
        verifier,
        ALPHA,
        K,
        outcomes=outcome,
    )
    crossing = steps = 0
    for place, (row, paid) in enumerate(zip(rows, found, strict=True)):
        start, step = 0, 0
        expected = []
        for piece in row:
            if not piece.startswith("<"):  # else it is where the one before it is
                while step + 1 < len(paid.spans) and start >= paid.spans[step, 1]:
                    step += 1
                start += len(piece)
                crossing += piece == "a\nb"
            expected.append(relative.flat[place] + paid.rewards[step])
        steps += len(paid.spans)
        got = output["advantages"][place, : len(row)].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert steps > 2 * len(rows) and crossing
