"""Hugging Face's checkpoints: config.json and safetensors, as transformers writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.formats import (
    Piece,
    damage_is_a_user_error,
    embedding_piece,
    layer_shapes,
)

INDEX = "model.safetensors.index.json"
_HF_NORMS = {
    "pre_attn_norm": "input_layernorm",
    "post_attn_norm": "post_attention_layernorm",
    "pre_mlp_norm": "pre_feedforward_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_HF_TABLE = "embed_tokens.weight"
_HF_HEAD = "lm_head.weight"
_ROWS = 4096  # of a table that are compared at once


class HuggingFaceSource:
    """A directory of safetensors with a config.json, as transformers writes it.

    Names are without the prefix of the text model, which depends on whether the
    checkpoint has a vision tower and on the version of transformers.
    """

    def __init__(self, path: Path):
        self._path = path
        self.config = _read_json(path / "config.json")
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        tensors = {}
        for file in self._shards():
            with damage_is_a_user_error(file), self._open(file) as reader:
                for name in reader.keys():  # noqa: SIM118 (it is no mapping)
                    shape = tuple(reader.get_slice(name).get_shape())
                    tensors[name] = (file, shape)
        tables = [name for name in tensors if name.endswith(_HF_TABLE)]
        if len(tables) != 1:
            raise UserError(
                f"the checkpoint {path} has {len(tables)} tensors whose name ends in"
                f" {_HF_TABLE}; it should have one"
            )
        self._prefix = tables[0].removesuffix(_HF_TABLE)
        if heads := [name for name in tensors if name.endswith(_HF_HEAD)]:
            self._check_tied(tables[0], heads[0], tensors)
        for name, (file, shape) in tensors.items():
            if name.startswith(self._prefix) and not name.endswith(_HF_HEAD):
                short = name.removeprefix(self._prefix)
                self._files[short], self.shapes[short] = file, shape

    @staticmethod
    def _open(file: Path) -> Any:
        import safetensors

        return safetensors.safe_open(file, framework="numpy")

    def _check_tied(self, table: str, head: str, tensors: dict[str, Any]) -> None:
        """Refuses an output layer that is not the embedding table.

        The models here have one table for both; a head that differs would be dropped,
        and every next token with it.
        """
        (file, shape), (head_file, head_shape) = tensors[table], tensors[head]
        same, rows = shape == head_shape, shape[0]
        with (
            damage_is_a_user_error(head_file),
            self._open(file) as ours,
            self._open(head_file) as theirs,
        ):
            a, b = ours.get_slice(table), theirs.get_slice(head)
            same = same and all(
                np.array_equal(a[i : min(i + _ROWS, rows)], b[i : min(i + _ROWS, rows)])
                for i in range(0, rows, _ROWS)
            )
        if not same:
            tied = self.config.get("tie_word_embeddings", True)
            raise UserError(
                f"the checkpoint {self._path} has an output layer of its own, {head},"
                f" which is not its {table} (config.json has tie_word_embeddings="
                f"{str(tied).lower()}); only models whose output layer is the embedding"
                " table can be read"
            )

    def _shards(self) -> list[Path]:
        index = self._path / INDEX
        if not index.is_file():
            return [self._path / "model.safetensors"]
        try:
            names = sorted(set(_read_json(index)["weight_map"].values()))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged: it has no weight_map") from error
        if others := [n for n in names if Path(n).name != n]:
            raise UserError(f"{index} names {others[0]!r}, which is not beside it")
        if missing := [n for n in names if not (self._path / n).is_file()]:
            raise UserError(f"{self._path} lacks {missing[0]}, which {index} names")
        return [self._path / name for name in names]

    def pieces(self, architecture: TransformerConfig) -> list[Piece]:
        """The pieces of an architecture."""
        return pieces(architecture, self.shapes[_HF_TABLE])

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype that it is stored in."""
        file = self._files[name]
        # Opened for each, since what was read from an open file stays in memory.
        with damage_is_a_user_error(file), self._open(file) as reader:
            return reader.get_tensor(self._prefix + name)


def pieces(
    architecture: TransformerConfig, table: tuple[int, ...] | None = None
) -> list[Piece]:
    """The pieces of an architecture, by names without a prefix.

    Args:
      architecture: of the network.
      table: the shape of the embedding table in the checkpoint; None if it has the
        architecture's rows.
    """
    c = architecture
    shapes = layer_shapes(c)
    found = [
        embedding_piece(_HF_TABLE, c, table),
        Piece("norm.weight", (c.embed_dim,), "final_norm"),
    ]

    def heads(w: np.ndarray) -> np.ndarray:  # [N*H, D] -> [N, D, H]
        return w.reshape(-1, c.head_dim, c.embed_dim).swapaxes(1, 2)

    def rows(w: np.ndarray) -> np.ndarray:  # the reverse
        return w.swapaxes(1, 2).reshape(-1, c.embed_dim)

    def out(w: np.ndarray) -> np.ndarray:  # [D, N*H] -> [N, H, D]
        return w.T.reshape(-1, c.head_dim, c.embed_dim)

    def columns(w: np.ndarray) -> np.ndarray:  # the reverse
        return w.reshape(-1, c.embed_dim).T

    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    d, f = c.embed_dim, c.mlp_dim
    matrices = [
        ("self_attn.q_proj", (q, d), "q", (), heads, rows),
        ("self_attn.k_proj", (kv, d), "kv", (0,), heads, rows),
        ("self_attn.v_proj", (kv, d), "kv", (1,), heads, rows),
        ("self_attn.o_proj", (d, q), "o", (), out, columns),
        ("mlp.gate_proj", (f, d), "gate", (0,), np.transpose, np.transpose),
        ("mlp.up_proj", (f, d), "gate", (1,), np.transpose, np.transpose),
        ("mlp.down_proj", (d, f), "down", (), np.transpose, np.transpose),
    ]
    for i in range(c.num_layers):
        layer = f"layers.{i}"
        for name, shape, leaf, half, *views in matrices:
            found.append(
                Piece(f"{layer}.{name}.weight", shape, leaf, (i, *half), *views)
            )
        for leaf, name in _HF_NORMS.items():
            if leaf in shapes:
                found.append(Piece(f"{layer}.{name}.weight", shapes[leaf], leaf, (i,)))
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def stated_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `TransformerConfig` that a config.json states.

    Args:
      config: the content of config.json. In a multi-modal one, the text model's fields
        are in a section of their own, without those that have transformers' defaults.

    Returns:
      Fields by name; `vocab_size` and `transposed_gate` are not among them.

    Raises:
      UserError: it describes neither a Gemma 2 nor a Gemma 3 text model.
    """
    text, is_gemma2 = _text_model(config)
    # The defaults of transformers' configuration classes.
    get = {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 2 if is_gemma2 else 6,
        "attn_logit_softcapping": 50.0 if is_gemma2 else None,
        "final_logit_softcapping": 30.0 if is_gemma2 else None,
        "layer_types": None,
    } | text
    kinds = get["layer_types"] or [
        "sliding" if (i + 1) % get["sliding_window_pattern"] else "full"
        for i in range(get["num_hidden_layers"])
    ]
    kinds = ["local" if kind.startswith("sliding") else "global" for kind in kinds]
    (local_base, local_scale), (global_base, global_scale) = _rope(text, is_gemma2)
    return {
        "embed_dim": get["hidden_size"],
        "mlp_dim": get["intermediate_size"],
        "num_heads": get["num_attention_heads"],
        "num_kv_heads": get["num_key_value_heads"],
        "head_dim": get["head_dim"],
        "layers": tuple(kinds),
        "window": get["sliding_window"],
        "query_scale": get["query_pre_attn_scalar"] ** -0.5,
        "attn_softcap": get["attn_logit_softcapping"],
        "final_softcap": get["final_logit_softcapping"],
        "qk_norm": not is_gemma2,
        "local_rope_base": local_base,
        "local_rope_scale": local_scale,
        "global_rope_base": global_base,
        "global_rope_scale": global_scale,
    }


def difference(
    config: dict[str, Any], architecture: TransformerConfig
) -> tuple[str, Any, Any] | None:
    """The first field of `stated_fields` that is another in the architecture: its name,
    what the config states, and what the architecture has; None if there is none.

    Shapes of tensors alone do not show windows and scales.
    """
    for name, found in stated_fields(config).items():
        expected = getattr(architecture, name)
        if isinstance(expected, float) and isinstance(found, int | float):
            same = abs(found - expected) <= 1e-6 * abs(expected)
        else:
            same = found == expected
        if not same:
            return name, found, expected
    return None


def _text_model(config: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields of the text model, and whether it is Gemma 2.

    Raises:
      UserError: it is neither a Gemma 2 nor a Gemma 3 that reads from left to right.
    """
    text = config.get("text_config", config)
    kind = text.get("model_type") or config.get("model_type")
    if kind not in ("gemma2", "gemma3", "gemma3_text"):
        raise UserError(
            f"config.json has the model_type {kind!r}; it should be 'gemma2',"
            " 'gemma3' or 'gemma3_text'"
        )
    if any(x.get("use_bidirectional_attention") for x in (text, config)):
        raise UserError(
            "config.json has use_bidirectional_attention, as embedding models do; a"
            " policy or a verifier here reads from left to right only"
        )
    return text, kind == "gemma2"


def _rope(text: dict[str, Any], is_gemma2: bool) -> list[tuple[float, float]]:
    """(base, scale) of local and of global layers.

    Raises:
      UserError: positions are scaled in a way that this program does not know.
    """
    base = text.get("rope_theta", 10_000.0 if is_gemma2 else 1_000_000.0)
    local = base if is_gemma2 else text.get("rope_local_base_freq", 10_000.0)
    parameters = text.get("rope_parameters")  # since transformers 5
    scaling = text.get("rope_scaling")
    if parameters is not None and scaling is not None:
        raise UserError(
            "config.json has both rope_scaling and rope_parameters; it should have one"
        )
    if parameters is None:
        both = [
            ("rope_scaling", scaling if is_gemma2 else None, local),
            ("rope_scaling", scaling, base),
        ]
    else:
        field = "rope_parameters"
        _check_mapping(field, parameters)
        if is_gemma2:
            both = [(field, parameters, base)] * 2
        elif parameters.keys() - {"sliding_attention", "full_attention"}:
            raise UserError(
                f"config.json has {field}={json.dumps(parameters)}; in Gemma 3 it"
                " should have the sections sliding_attention and full_attention"
            )
        else:
            both = [
                (f"{field}.{kind}", parameters.get(kind), theta)
                for kind, theta in (
                    ("sliding_attention", local),
                    ("full_attention", base),
                )
            ]
    return [_base_and_scale(*of_kind) for of_kind in both]


def _base_and_scale(field: str, rope: Any, base: float) -> tuple[float, float]:
    """The base and the scale that a section on RoPE states; None states the default."""
    if rope is None:
        return float(base), 1.0
    _check_mapping(field, rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor = rope.get("factor", 1.0 if kind == "default" else None)
    base = rope.get("rope_theta", base)
    if kind not in ("default", "linear") or not all(
        isinstance(x, int | float) and not isinstance(x, bool) and x > 0
        for x in (factor, base)
    ):
        raise UserError(
            f"config.json has {field}={json.dumps(rope)}, which is not understood; its"
            " rope_type should be default, or linear with a factor"
        )
    return float(base), float(factor) if kind == "linear" else 1.0


def _check_mapping(field: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise UserError(
            f"config.json has {field}={json.dumps(value)}; it should be an object or"
            " null"
        )
