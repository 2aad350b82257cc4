"""What each field of an experiment's config may hold, checked before anything is run.

A slip is then told in the first second, by the field's name and what it may hold,
and not by an exception of the stage that reads it, perhaps hours later. A field that
nobody knows is told as well, since it may be a misspelt one. What depends on the
problems or on the machine is left to the stage that knows them.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.gemma import sizes
from pav_jax.pipeline.contradictions import contradictions
from pav_jax.pipeline.data import OWN
from pav_jax.tasks import make_task
from pav_jax.verifier import HEADS

ANY = "*"  # stands for the name of a prover or of a method


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold.

    Attributes:
      words: the same for a person, after "it must be".
      accepts: whether a value is right.
      needed: whether a config must have the field, if it has the field's section.
    """

    words: str
    accepts: Callable[[Any], bool]
    needed: bool = True

    def optional(self) -> "Rule":
        """The same rule of a field that a config may do without."""
        return dataclasses.replace(self, needed=False)

    def or_none(self, meaning: str) -> "Rule":
        """A rule that also accepts None, which has a meaning of its own."""
        accepts = self.accepts
        return Rule(
            f"{self.words}, or None, {meaning}",
            lambda value: value is None or accepts(value),
            self.needed,
        )


def _whole(low: int) -> Rule:
    return Rule(
        f"a whole number, {low} or more",
        lambda value: type(value) is int and low <= value < 1 << 31,
    )


def _number(low: float, high: float | None = None, *, above: bool = False) -> Rule:
    """A number from `low`, or with `above` one above it, up to `high`."""
    words = f"a number above {low:g}" if above else f"a number, {low:g} or more"
    if high is not None:
        words += f" and at most {high:g}"

    def accepts(value: Any) -> bool:
        return (
            type(value) in (int, float)
            and (value > low if above else value >= low)
            and (high is None or value <= high)
        )

    return Rule(words, accepts)


def _several(rule: Rule, what: str) -> Rule:
    """A tuple of at least one, all different."""
    return Rule(
        f"a tuple of {what}, at least one and each once",
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(map(rule.accepts, value))
            and len(set(value)) == len(value)
        ),
    )


def _one_of(*names: str) -> Rule:
    return Rule(
        f"one of {', '.join(map(repr, names))}",
        lambda value: isinstance(value, str) and value in names,
    )


_POSITIVE, _COUNT = _whole(1), _whole(0)
_FLAG = Rule("True or False", lambda value: type(value) is bool)
_TEXT = Rule("a text", lambda value: isinstance(value, str))
_FRACTION = _number(0, 1)
_POSITIVES = _several(_POSITIVE, "whole numbers, 1 or more")

_OPTIMIZER = {
    "steps": _POSITIVE,
    "warmup_steps": _COUNT,
    "learning_rate": _number(0, above=True),
    "final_learning_rate": _FRACTION,
    "weight_decay": _number(0),
    "clip_norm": _number(0, above=True),
}
_TRAINED = {**_OPTIMIZER, "batch_size": _POSITIVE}
_SFT = {
    **_TRAINED,
    "short_first.steps": _COUNT,
    "short_first.fraction": _number(0, 1, above=True),
}
_MODEL = {
    "name": _one_of(*sizes.SIZES),
    "shrunk": _FLAG,
    "num_layers": _POSITIVE,
    "embed_dim": _POSITIVE,
    "num_heads": _POSITIVE,
    "num_kv_heads": _POSITIVE,
    "mlp_dim": _POSITIVE,
    "window": _POSITIVE,
    "checkpoint": _TEXT,
    "dtype": _one_of("float32", "bfloat16"),
}
_SECTIONS: dict[str, dict[str, Rule]] = {
    "": {"name": _TEXT, "seed": _COUNT},
    "problems": {
        **dict.fromkeys(
            ("sft", "labels", "validation", "test"),
            _POSITIVE.or_none("for all that the task has"),
        ),
        "disjoint": _FLAG.optional(),
    },
    "limits": dict.fromkeys(
        ("max_prompt_tokens", "max_tokens", "max_steps"), _POSITIVE
    ),
    "tokenizer": {"path": _TEXT.optional(), "vocab_size": _POSITIVE.optional()},
    "model": {key: rule.optional() for key, rule in _MODEL.items()},
    "sft": _SFT,
    "rollouts": {"n_cov": _POSITIVE, "n_orm": _POSITIVE, "temperature": _number(0)},
    "labels": {
        "n_mc": _POSITIVE.optional(),  # unless the labels are this run's own
        "shard": _POSITIVE,
        "from": _TEXT.optional(),
        "first_pit.n_mc": _COUNT,
        "first_pit.responses": _POSITIVE,
        "first_pit.threshold": _number(0, 1, above=True),
    },
    "verifier": {
        "language_weight": _number(0),
        "held_out": Rule(
            "a number above 0 and below 1: the parameters of least loss on the problems"
            " held out are kept",
            lambda value: type(value) is float and 0 < value < 1,
        ),
        "balance": _FLAG,
        "head": _one_of(*HEADS).optional(),
        "prover_k": _POSITIVE,
    },
    "verifier.prm": _TRAINED,
    "verifier.orm": _TRAINED,
    "verifier.on_search": {
        **dict.fromkeys(("rounds", "beams", "problems", "labelled", "n_mc"), _POSITIVE),
        "steps": _whole(2),  # of which one warms up
    },
    "evaluation": dict.fromkeys(
        ("n", "oracle_problems", "oracle_n", "oracle_n_mc"), _POSITIVE
    ),
    "search": {
        "samples": _POSITIVE,
        "ns": _POSITIVES,
        "beams": _POSITIVES,
        "candidates": _POSITIVE,
        "alphas": _several(_number(0), "numbers, 0 or more"),
        "prover_ks": _POSITIVES,
        "alpha_beams": _POSITIVE,
        "temperature": _number(0),
        "subtree": _POSITIVE.optional(),
        "bok.ks": _POSITIVES,
        "bok.alpha": _number(0, above=True),
    },
    "sampling": {
        "trunks": _POSITIVE,
        "rows": _POSITIVE,
        "trunks_per_group": _POSITIVE.optional(),
    },
    "mesh": dict.fromkeys(
        ("data", "fsdp", "tensor"),
        Rule(
            "a whole number, 1 or more, or -1 for what the other axes leave",
            lambda value: type(value) is int and (value >= 1 or value == -1),
            needed=False,
        ),
    ),
    "pretraining.sft": {key: rule.optional() for key, rule in _SFT.items()},
    f"provers.{ANY}": {
        "n_mc": _COUNT,
        "from_policy": _COUNT,
        "from_prover": _COUNT,
        "policy": _TEXT,
    },
    f"provers.{ANY}.model": {key: rule.optional() for key, rule in _MODEL.items()},
    f"provers.{ANY}.sft": {key: rule.optional() for key, rule in _SFT.items()},
    "rl": {
        "measured": _one_of("test", "validation", "labels", "sft"),
        "seeds": _several(_COUNT, "whole numbers, 0 or more"),
    },
    "rl.rft": _TRAINED,
    "rl.training": {
        **_OPTIMIZER,
        "problems": _POSITIVE,
        "samples": _POSITIVE,
        "value_learning_rate": _number(0, above=True),
        "kl": _number(0),
        "max_kl": _number(0, above=True),
        "measure_every": _POSITIVE,
        "measure_samples": _POSITIVE,
        "min_accuracy": _FRACTION,
    },
    f"rl.methods.{ANY}": {
        "alpha": _number(0),
        "prover_k": _POSITIVE,
        "prover": _TEXT,
        "n_mc": _COUNT,
        "refresh_every": _COUNT,
    },
    "rl.refresh": {
        **_TRAINED,
        "language_weight": _number(0),
        "n_mc": _POSITIVE,
        "problems": _POSITIVE,
    },
    "rl.provers": {
        "ks": _POSITIVES,
        "n_mc": _POSITIVE,
        "problems": _POSITIVE,
        "responses": _whole(2),
    },
    "rl.final": {
        "problems": _POSITIVE.or_none("for all").optional(),
        "samples": _POSITIVE,
        "unsolved": _POSITIVE,
        "ns": _POSITIVES,
        "reference": _TEXT,
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


def check(config: ConfigDict) -> None:
    """Checks the config of an experiment.

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
        rule, holder = RULES.get(_with_any(name)), name.rpartition(".")[0]
        if rule is None and (above := RULES.get(_with_any(holder))):
            raise UserError(f"config.{holder} is a section; it must be {above.words}")
        if rule is None:
            # Who reads them says what an entry may have.
            if not name.startswith(("provers.", "rl.methods.")):
                raise UserError(_unknown(name))
        elif not rule.accepts(value):
            raise UserError(f"config.{name} is {value!r}; it must be {rule.words}")
    for name, rule in RULES.items():
        if rule.needed and ANY not in name and _is_missing(name, values, config):
            raise UserError(f"the config has no field {name!r}; it is {rule.words}")
    if not isinstance(config.get("task"), ConfigDict):
        raise UserError("the config has no section 'task'; its name says which task")
    _check_tasks(config)
    if found := next(contradictions(config), None):
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


def _unknown(name: str) -> str:
    section = name.rpartition(".")[0]
    if below := [known for known in RULES if known.startswith(f"{name}.")]:
        return f"config.{name} must be a section, with {', '.join(below)}"
    inside = [known for known in RULES if known.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, inside, n=1)
    near = near or difflib.get_close_matches(name, RULES, n=1)
    if near:
        return f"there is no config field {name!r}; did you mean {near[0]!r}?"
    there = inside if section else sorted({known.split(".")[0] for known in RULES})
    return f"there is no config field {name!r}; there are: {', '.join(there)}"


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
