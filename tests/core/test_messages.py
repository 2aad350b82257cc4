"""Messages name fields that a config has, by the names that the config gives them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.pipeline.stages import stages

ROOT = Path(__file__).resolve().parents[2]
# Between them they have every field that the code reads.
CONFIGS = (
    "demo.py",
    "hard_demo.py",
    "rl_demo.py:controls,provers,monte_carlo,refreshed",
    "gsm8k_tiny.py",
    "gemma2_2b_math.py:rl",
    "gemma2_2b_math.py:smoke",
    "evidence/planted.py",
    "evidence/on_search.py",
    "evidence/first_pit.py",
    "evidence/provers.py",
    "evidence/diverse.py",
)
# Fields that a config may have and none of ours sets, and names of methods.
ALSO = {
    "mesh.tensor",
    "rl.methods",
    "sampling.trunks_per_group",
    "model.dtype",
    "task.path",
}


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts within a call's arguments; what an f-string computes is "*"."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "*"
                for part in inner.values
            )
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def _messages() -> Iterator[tuple[Path, str]]:
    """Everything that a UserError says, with the file it is in."""
    for path in sorted((ROOT / "pav_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "UserError",
                "PeerStopped",
            ):
                for text in _texts(node):
                    yield path, text


def _fields() -> tuple[set[str], set[str]]:
    """Every field of our configs, and every section."""
    fields, sections = set(ALSO), set()

    def walk(config: ConfigDict, prefix: str) -> None:
        for key in config:
            fields.add(prefix + key)
            if isinstance(config.get(key), ConfigDict):
                sections.add(prefix + key)
                walk(config[key], f"{prefix}{key}.")

    for name in CONFIGS:
        walk(config_lib.load([f"--config={ROOT / 'experiments' / name}"]), "")
    return fields, sections


def named(text: str, tops: set[str]) -> set[str]:
    """Fields that a message names: after "config.", or as a field of a section."""
    with_config = re.findall(r"\bconfig\.((?:[a-z_]+\.)*[a-z_]+)(?![\w.]*[(*])", text)
    sections = "|".join(sorted(tops))
    bare = re.findall(rf"(?<![\w./-])((?:{sections})(?:\.[a-z_]+)+)\b(?!\()", text)
    return set(with_config) | set(bare)


def test_every_field_that_a_message_names_is_there():
    fields, sections = _fields()
    tops = {section for section in sections if "." not in section}
    found = [(path, name) for path, text in _messages() for name in named(text, tops)]
    assert len(found) > 20  # else nothing was looked at
    # config.json, the example --config.field=value, and files of a tokenizer
    others = {"json", "field", "tokenizer.json", "tokenizer.model"}
    assert not [
        f"{path.relative_to(ROOT)}: {name}"
        for path, name in found
        if name not in fields | others
    ]


def test_what_a_message_names_is_seen():
    text = "a prompt is longer than task.max_prompt_tokens; see config.limits.nothing"
    assert named(text, {"task"}) == {"task.max_prompt_tokens", "limits.nothing"}


def test_the_guide_names_what_beams_of_the_oracle_depend_on():
    """Fields of stage `search`, or of the stages before it."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    (bullet,) = [part for part in guide.split("\n- ") if "`beam_oracle`" in part]
    named = re.findall(r"`(\w+\.[\w.]+)`", bullet)
    assert named
    demo = f"--config={ROOT / 'experiments' / 'demo.py'}"
    config = config_lib.load([demo, "--config.labels.from=DIR"])
    found = {stage.name: stage for stage in stages(config)}
    assert "rollouts" not in found["search"].needs  # so there is no oracle
    left, fields = ["search"], set()
    while left:
        stage = found[left.pop()]
        left += stage.needs
        fields |= set(stage.fields)
    for name in named:
        assert any(config_lib.within(name, field) for field in fields), name
