"""What each field of an experiment's config may hold, checked before anything is run.

A slip is then told in the first second, by the field's name and what it may hold,
and not by an exception of the stage that reads it, perhaps hours later. A field that
nobody knows is told as well, since it may be a misspelt one. What depends on the
problems or on the machine is left to the stage that knows them.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core import rules
from pav_jax.core.errors import UserError
from pav_jax.gemma import sizes
from pav_jax.pipeline.contradictions import contradictions
from pav_jax.pipeline.data import OWN
from pav_jax.tasks import make_task
from pav_jax.verifier import HEADS

ANY = "*"  # stands for the name of a prover or of a method


_OPTIMIZER = {
    "steps": rules.POSITIVE,
    "warmup_steps": rules.COUNT,
    "learning_rate": rules.number(0, above=True),
    "final_learning_rate": rules.FRACTION,
    "weight_decay": rules.number(0),
    "clip_norm": rules.number(0, above=True),
}
_TRAINED = {**_OPTIMIZER, "batch_size": rules.POSITIVE}
_SFT = {
    **_TRAINED,
    "short_first.steps": rules.COUNT,
    "short_first.fraction": rules.number(0, 1, above=True),
}
_MODEL = {
    "name": rules.one_of(*sizes.SIZES),
    "shrunk": rules.FLAG,
    "num_layers": rules.POSITIVE,
    "embed_dim": rules.POSITIVE,
    "num_heads": rules.POSITIVE,
    "num_kv_heads": rules.POSITIVE,
    "mlp_dim": rules.POSITIVE,
    "window": rules.POSITIVE,
    "checkpoint": rules.TEXT,
    "dtype": rules.one_of("float32", "bfloat16"),
}
_SECTIONS: dict[str, dict[str, rules.Rule]] = {
    "": {"name": rules.TEXT, "seed": rules.COUNT},
    "problems": {
        **dict.fromkeys(
            ("sft", "labels", "validation", "test"),
            rules.POSITIVE.or_none("for all that the task has"),
        ),
        "disjoint": rules.FLAG.optional(),
    },
    "limits": dict.fromkeys(
        ("max_prompt_tokens", "max_tokens", "max_steps"), rules.POSITIVE
    ),
    "tokenizer": {
        "path": rules.TEXT.optional(),
        "vocab_size": rules.POSITIVE.optional(),
    },
    "model": {key: rule.optional() for key, rule in _MODEL.items()},
    "sft": _SFT,
    "rollouts": {
        "n_cov": rules.POSITIVE,
        "n_orm": rules.POSITIVE,
        "temperature": rules.number(0),
    },
    "labels": {
        "n_mc": rules.POSITIVE.optional(),  # unless the labels are this run's own
        "shard": rules.POSITIVE,
        "from": rules.TEXT.optional(),
        "first_pit.n_mc": rules.COUNT,
        "first_pit.responses": rules.POSITIVE,
        "first_pit.threshold": rules.number(0, 1, above=True),
    },
    "verifier": {
        "language_weight": rules.number(0),
        "held_out": rules.inside(
            0,
            1,
            ": the parameters of least loss on the problems held out are kept",
        ),
        "balance": rules.FLAG,
        "head": rules.one_of(*HEADS).optional(),
        "prover_k": rules.POSITIVE,
    },
    "verifier.prm": _TRAINED,
    "verifier.orm": _TRAINED,
    "verifier.on_search": {
        **dict.fromkeys(
            ("rounds", "beams", "problems", "labelled", "n_mc"), rules.POSITIVE
        ),
        "steps": rules.whole(2),  # of which one warms up
    },
    "evaluation": {
        **dict.fromkeys(("n", "oracle_problems", "oracle_n"), rules.POSITIVE),
        "oracle_n_mc": rules.whole(2),  # one does not say how noisy it is
    },
    "search": {
        "samples": rules.POSITIVE,
        "ns": rules.POSITIVES,
        "beams": rules.POSITIVES,
        "candidates": rules.POSITIVE,
        "alphas": rules.several(rules.number(0), "numbers, 0 or more"),
        "prover_ks": rules.POSITIVES,
        "alpha_beams": rules.POSITIVE,
        "temperature": rules.number(0),
        "subtree": rules.POSITIVE.optional(),
        "bok.ks": rules.POSITIVES,
        "bok.alpha": rules.number(0, above=True),
    },
    "sampling": {
        "trunks": rules.POSITIVE,
        "rows": rules.POSITIVE,
        "trunks_per_group": rules.POSITIVE.optional(),
    },
    "mesh": dict.fromkeys(
        ("data", "fsdp", "tensor"),
        rules.Rule(
            "a whole number, 1 or more, or -1 for what the other axes leave",
            lambda value: type(value) is int and (value >= 1 or value == -1),
            needed=False,
        ),
    ),
    "pretraining.sft": {key: rule.optional() for key, rule in _SFT.items()},
    f"provers.{ANY}": {
        "n_mc": rules.COUNT,
        "from_policy": rules.COUNT,
        "from_prover": rules.COUNT,
        "policy": rules.TEXT,
    },
    f"provers.{ANY}.model": {key: rule.optional() for key, rule in _MODEL.items()},
    f"provers.{ANY}.sft": {key: rule.optional() for key, rule in _SFT.items()},
    "rl": {
        "measured": rules.one_of("test", "validation", "labels", "sft"),
        "seeds": rules.several(rules.COUNT, "whole numbers, 0 or more"),
    },
    "rl.rft": _TRAINED,
    "rl.training": {
        **_OPTIMIZER,
        "problems": rules.POSITIVE,
        "samples": rules.POSITIVE,
        "value_learning_rate": rules.number(0, above=True),
        "kl": rules.number(0),
        "max_kl": rules.number(0, above=True),
        "measure_every": rules.POSITIVE,
        "measure_samples": rules.POSITIVE,
        "min_accuracy": rules.FRACTION,
    },
    f"rl.methods.{ANY}": {
        "alpha": rules.number(0),
        "prover_k": rules.POSITIVE,
        "prover": rules.TEXT,
        "n_mc": rules.COUNT,
        "refresh_every": rules.COUNT,
    },
    "rl.refresh": {
        **_TRAINED,
        "language_weight": rules.number(0),
        "n_mc": rules.POSITIVE,
        "problems": rules.POSITIVE,
    },
    "rl.provers": {
        "ks": rules.POSITIVES,
        "n_mc": rules.POSITIVE,
        "problems": rules.POSITIVE,
        "responses": rules.whole(2),
    },
    "rl.final": {
        "problems": rules.POSITIVE.or_none("for all").optional(),
        "samples": rules.POSITIVE,
        "unsolved": rules.POSITIVE,
        "ns": rules.POSITIVES,
        "beams": rules.POSITIVES.optional(),
        "reference": rules.TEXT,
    },
}
# Sections that a config may do without; what is in them is then not needed either.
_OPTIONAL = ("mesh", "pretraining", "provers", "rl", "verifier.on_search")
_OPTIONAL += (
    "search.bok",
    "rl.provers",
    "rl.refresh",
    "labels.first_pit",
    "sft.short_first",
)


RULES = {
    f"{section}.{field}" if section else field: rule
    for section, fields in _SECTIONS.items()
    for field, rule in fields.items()
}


def check(config: ConfigDict, until: str | None = None) -> None:
    """Checks the config of an experiment, of which a run may end with stage `until`.

    Raises:
      UserError: a field is misspelt, missing, of a wrong type or out of range, or two
        do not go together; it names them, and what is allowed.
    """
    values = config_lib.flatten(config)
    for name, value in _entries(config):
        if not isinstance(value, ConfigDict):
            raise UserError(f"config.{name} is {value!r}; it must be a section")
    for name, value in values.items():
        if config_lib.within(name, "task") or ".task." in name:
            continue  # a task knows its own fields
        if name.startswith(("provers.", "rl.methods.")):
            holder = name.rpartition(".")[0]
            if not {_with_any(name), _with_any(holder)} & RULES.keys():
                continue  # who reads them says what an entry may have
        rules.check(name, value, RULES, _with_any)
    for name, rule in RULES.items():
        if rule.needed and ANY not in name and _is_missing(name, values, config):
            raise UserError(rules.missing(name, RULES))
    if not isinstance(config.get("task"), ConfigDict):
        raise UserError("the config has no section 'task'; its name says which task")
    _check_tasks(config)
    if found := next(contradictions(config, until), None):
        raise UserError(found)
    sizes.from_config(config.model, None)  # raises for fields beside a name


def _check_tasks(config: ConfigDict) -> None:
    """Raises UserError if the task, or one with the changes of another policy, is not
    a task with its fields."""
    make_task(config.task)
    others = {f"provers.{name}": p for name, p in config.get("provers", {}).items()}
    if "pretraining" in config:
        others["pretraining"] = config.pretraining
    for where, changes in others.items():
        try:
            make_task(ConfigDict({**config.task, **changes.get("task", {})}))
        except UserError as error:
            raise UserError(f"with config.{where}.task: {error}") from error


def _with_any(name: str) -> str:
    """The name with `ANY` for what the user calls a prover or a method."""
    place = 1 if name.startswith("provers.") else 2
    parts = name.split(".")
    if place == 1 or name.startswith("rl.methods."):
        parts[place : place + 1] = [ANY]
    return ".".join(parts)


def _is_missing(name: str, values: dict[str, Any], config: ConfigDict) -> bool:
    """Whether a field that is needed is not there, and its section is no option.

    A section without any field is there, as those that read it will find.
    """
    return name not in values and not any(
        config_lib.within(name, section) and _at(config, section) is None
        for section in _OPTIONAL
    )


def _at(config: ConfigDict, name: str) -> Any:
    """The value, or the section, of a dotted name; None if there is none."""
    found: Any = config
    for part in name.split("."):
        found = found.get(part) if isinstance(found, ConfigDict) else None
    return found


def _entries(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """What the user has named, a prover or a method, and their sections."""
    for holder in ("provers", "rl.methods"):
        entries = _at(config, holder)
        for name in entries if isinstance(entries, ConfigDict) else ():
            yield f"{holder}.{name}", entries[name]
            for section in OWN:
                if (value := _at(entries, f"{name}.{section}")) is not None:
                    yield f"{holder}.{name}.{section}", value
