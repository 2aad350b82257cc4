"""The architecture of a Gemma text transformer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """One Gemma 2 or Gemma 3 text architecture.

    Hashable, so that it can be a static argument of a jitted function.

    Attributes:
      vocab_size: rows of the embedding table.
      embed_dim: width of the residual stream.
      mlp_dim: width of the gated feed-forward layer.
      num_heads: query heads.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: width of one head; even, for RoPE.
      layers: the attention kind of each layer, 'local' or 'global'.
      window: tokens a local layer sees, itself included.
      query_scale: what queries are multiplied by; the 27B models differ.
      attn_softcap: tanh cap on attention logits; None for Gemma 3.
      final_softcap: tanh cap on output logits; None for Gemma 3.
      qk_norm: RMS-normalise queries and keys (Gemma 3).
      local_rope_base: RoPE base of local layers.
      global_rope_base: RoPE base of global layers.
      local_rope_scale: RoPE position divisor of local layers.
      global_rope_scale: RoPE position divisor of global layers.
      transposed_gate: whether the gemma package's files hold the gate as `[2, F, D]`
        and not `[2, D, F]`; nothing else depends on it.
    """

    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[str, ...]
    window: int
    query_scale: float
    attn_softcap: float | None = 50.0
    final_softcap: float | None = 30.0
    qk_norm: bool = False
    local_rope_base: float = 10_000.0
    global_rope_base: float = 10_000.0
    local_rope_scale: float = 1.0
    global_rope_scale: float = 1.0
    transposed_gate: bool = False

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide"
                f" num_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even, for RoPE")
        if unknown := set(self.layers) - {"local", "global"}:
            raise ValueError(
                f"layers may be 'local' or 'global', not {sorted(unknown)}"
            )

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_params(self) -> int:
        """Parameters, the embedding included."""
        attention = self.embed_dim * self.head_dim * (
            2 * self.num_heads + 2 * self.num_kv_heads
        ) + (2 * self.head_dim if self.qk_norm else 0)
        layer = attention + 3 * self.embed_dim * self.mlp_dim + 4 * self.embed_dim
        return (
            self.vocab_size * self.embed_dim + self.num_layers * layer + self.embed_dim
        )


def tiny_gemma2(
    vocab_size: int,
    *,
    num_layers: int,
    embed_dim: int,
    num_heads: int,
    mlp_dim: int,
    num_kv_heads: int | None = None,
    window: int = 4096,
) -> TransformerConfig:
    """A Gemma 2 architecture of laptop size: local and global layers in turn."""
    head_dim = embed_dim // num_heads
    return TransformerConfig(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads or num_heads,
        head_dim=head_dim,
        layers=tuple("local" if i % 2 == 0 else "global" for i in range(num_layers)),
        window=window,
        query_scale=head_dim**-0.5,
    )
