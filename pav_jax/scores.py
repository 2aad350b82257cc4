"""Q of whole responses, as a verifier reads it: each token once, and a prompt once for
as many of its responses as fit a batch."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import verifier
from pav_jax.core.counts import bucket, round_up
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Params, Response
from pav_jax.distributed import mesh
from pav_jax.gemma import cached_attention
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.train.batches import pad_rows

_BATCH_TOKENS = 8192  # that are scored in one pass

_step_values = jax.jit(verifier.step_values, static_argnames="architecture")


def score_rows(
    params: Params,
    rows: Sequence[Sequence[int]],
    *,
    widths: Sequence[int],
    architecture: TransformerConfig,
) -> list[np.ndarray]:
    """Q at every token of each row, one pass a row.

    Rows are bucketed by length; each width has one batch shape.

    Args:
      params: the verifier.
      rows: token ids of prompts and responses.
      widths: increasing; each row is padded to the first that holds it.
      architecture: of the verifier.

    Returns:
      Float32 `[len(row)]` for each.

    Raises:
      UserError: a value is not finite.
    """
    place = np.searchsorted(widths, [len(row) for row in rows])
    out: list[np.ndarray | None] = [None] * len(rows)
    for at in np.unique(place).tolist():
        width = widths[at]
        size = 1 << max(0, (_BATCH_TOKENS // width).bit_length() - 1)
        members = np.flatnonzero(place == at).tolist()
        for first in range(0, len(members), size):
            batch = members[first : first + size]
            padding = [[]] * (size - len(batch))
            tokens = pad_rows([*(rows[i] for i in batch), *padding], width)
            q = np.asarray(_step_values(params, tokens, architecture=architecture))
            for i, values in zip(batch, q, strict=False):
                out[i] = values[: len(rows[i])].copy()  # else the batch stays, too
    _check_finite(out)
    return out


def _check_finite(found: Sequence[np.ndarray]) -> None:
    if not all(np.isfinite(q).all() for q in found):
        raise UserError(
            "the verifier gives values that are not finite, so its parameters are"
            " damaged, or not numbers: take an earlier checkpoint, or train it again"
        )


def score_responses(
    params: Params,
    responses: Sequence[Response],
    ends: Sequence[np.ndarray],
    *,
    architecture: TransformerConfig,
    ledger: Ledger,
) -> list[np.ndarray]:
    """Q at the ends of all steps, one pass; a prompt is read once for its responses, or
    for as many of them as fit a batch.

    Args:
      params: the verifier.
      responses: what to score.
      ends: for each, the response tokens in each prefix, int `[H + 1]`, the
        bare prompt (0) first.
      architecture: of the verifier.
      ledger: counts are added to it.

    Returns:
      Float32 `[H + 1]` for each response.

    Raises:
      UserError: a value is not finite.
    """
    if not responses:
        return []
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, response in enumerate(responses):
        groups.setdefault(tuple(response.prompt), []).append(i)
    shape = _GroupShape.of(responses, groups)
    out: list[np.ndarray | None] = [None] * len(responses)
    parts = [
        (prompt, members[first : first + shape.members])
        for prompt, members in groups.items()
        for first in range(0, len(members), shape.members)
    ]
    ledger.scored += sum(len(prompt) for prompt, _ in parts)
    ledger.scored += sum(len(response.tokens) for response in responses)
    for first in range(0, len(parts), shape.groups):
        batch = parts[first : first + shape.groups]
        prompts, lengths, tokens = shape.arrays(batch, responses)
        q = np.asarray(
            _group_values(params, prompts, lengths, tokens, architecture=architecture)
        )
        for of_group, (_, members) in zip(q, batch, strict=False):
            for values, i in zip(of_group, members, strict=False):
                out[i] = values[ends[i]].copy()  # else the batch stays, too
    _check_finite(out)
    return out


@dataclasses.dataclass(frozen=True)
class _GroupShape:
    """The sizes of a batch of prompts with several responses each.

    Attributes:
      groups: prompts of a batch.
      members: responses to each of them.
      prompt: tokens of a prompt.
      response: tokens of a response.
    """

    groups: int
    members: int
    prompt: int
    response: int

    @classmethod
    def of(cls, responses: Sequence[Response], groups: dict) -> "_GroupShape":
        """Sizes that few jobs differ in, since each is compiled; whole prompts go to
        each device of the active mesh, up to `_BATCH_TOKENS` of them."""
        prompt = bucket(max(map(len, groups)), 16)
        response = bucket(max(1, *(len(r.tokens) for r in responses)), 16)
        most = max(1, _BATCH_TOKENS // response)
        members = min(max(map(len, groups.values())), most)
        members = 1 << (members - 1).bit_length()
        per_group = prompt + members * response
        count = 1 << max(0, (_BATCH_TOKENS // per_group).bit_length() - 1)
        parts = sum(round_up(len(some), members) for some in groups.values()) // members
        shards = mesh.row_shards(jax.sharding.get_mesh())
        of_all = min(count * shards, 1 << (parts - 1).bit_length())
        return cls(round_up(max(count, of_all), shards), members, prompt, response)

    def arrays(
        self,
        batch: Sequence[tuple[Sequence[int], Sequence[int]]],
        responses: Sequence[Response],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int32 prompts `[G, P]`, their lengths `[G]`, and responses `[G, M, T]`."""
        prompts = np.zeros((self.groups, self.prompt), np.int32)
        lengths = np.ones(self.groups, np.int32)
        tokens = np.zeros((self.groups, self.members, self.response), np.int32)
        for g, (prompt, members) in enumerate(batch):
            prompts[g, : len(prompt)], lengths[g] = prompt, len(prompt)
            for m, i in enumerate(members):
                tokens[g, m, : len(responses[i].tokens)] = responses[i].tokens
        return prompts, lengths, tokens


@functools.partial(jax.jit, static_argnames="architecture")
def _group_values(params, prompts, lengths, tokens, *, architecture) -> jax.Array:
    """Q of the bare prompts and after each response token, float32 `[G, M, T + 1]`.

    Arguments are those of `_GroupShape.arrays`.
    """
    network, shape = params["network"], tokens.shape
    trunk, hidden = cached_attention.prefill(
        network, prompts, architecture=architecture
    )
    last = (lengths - 1)[:, None]
    value, evidence = (
        jnp.take_along_axis(terms, last, axis=1)
        for terms in verifier.value_and_total(params, hidden)
    )
    suffix = cached_attention.empty_suffix(
        *shape, architecture=architecture, dtype=hidden.dtype
    )
    _, hidden = cached_attention.extend(
        network,
        trunk,
        suffix,
        tokens,
        jnp.broadcast_to(lengths[:, None], shape[:2]),
        jnp.zeros(shape[:2], jnp.int32),
        architecture=architecture,
    )
    bare = jnp.broadcast_to((value + evidence)[:, None], (*shape[:2], 1))
    value, total = verifier.value_and_total(params, hidden)
    after = value + evidence[:, None] + total
    return jax.nn.sigmoid(jnp.concatenate([bare, after], axis=-1))


def score_outcomes(
    params: Params,
    responses: Sequence[Response],
    *,
    architecture: TransformerConfig,
    ledger: Ledger,
) -> np.ndarray:
    """Q at the end of each whole response, float32 `[N]`: as an ORM scores it.

    Arguments are those of `score_responses`.
    """
    ends = [np.array([len(response.tokens)]) for response in responses]
    found = score_responses(
        params, responses, ends, architecture=architecture, ledger=ledger
    )
    return np.concatenate([np.zeros(0, np.float32), *found])
