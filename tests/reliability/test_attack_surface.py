r"""What a model or a stranger wrote is data: nothing of it is run.

Texts of responses are graded and shown; files come from others. None is evaluated or
unpickled, no name in one leads out of its folder, and no answer holds up a run.
"""

import ast
import html.parser
import json
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from stand_in import Bucket, contents

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade
from pav_jax.gemma.hugging_face import HuggingFaceSource
from pav_jax.pipeline import manifest
from pav_jax.report import steps_page
from pav_jax.storage import artifacts, buckets
from pav_jax.tasks import algebra, grading
from pav_jax.tasks.answers import comparing

PACKAGE = Path(__file__).resolve().parents[2] / "pav_jax"

# What runs text or bytes as code, or starts programs, and where we do so. A config is
# a Python file of the user; nothing else that is run comes from outside.
RUNS = {
    "runpy": {"core/config.py"},  # the user's own config
    "importlib.import_module": {"__init__.py", "tasks/__init__.py"},  # from a table
    "subprocess": {
        "tasks/algebra.py",  # our grading worker
        "distributed/devices.py",  # our own command
        "tools/planning/compiled.py",  # our own module
    },
}
NEVER = {"eval", "exec", "compile", "__import__", "execfile"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
MODULES |= {"torch", "runpy", "subprocess", "ctypes", "multiprocessing", "code"}
METHODS = {"np.load", "numpy.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe"}
METHODS |= {"pickle.load", "pickle.loads", "sympify", "parse_expr", "parse_latex"}
METHODS |= {"importlib.import_module", "pd.read_pickle"}


def _dotted(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _runs(path: Path) -> set[str]:
    """What a source file has of what runs code, or reads pickles."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names.append(getattr(node, "module", None) or "")
            found |= {name.split(".")[0] for name in names} & MODULES
        elif isinstance(node, ast.Call):
            name = _dotted(node.func)
            if name in NEVER or name in METHODS or name.split(".")[-1] == "sympify":
                found.add(name)
            for keyword in node.keywords:
                is_false = ast.unparse(keyword.value) == "False"
                if keyword.arg == "allow_pickle" and not is_false:
                    found.add("allow_pickle")
            if name.endswith("read_array") and "allow_pickle=False" not in ast.unparse(
                node
            ):
                found.add("allow_pickle")
    return found


def test_nothing_is_evaluated_or_unpickled():
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for name in _runs(path):
            found.setdefault(name, set()).add(path.relative_to(PACKAGE).as_posix())
    assert found == RUNS


@pytest.mark.parametrize(
    "source, name",
    [
        ("eval('1')", "eval"),
        ("import pickle", "pickle"),
        ("from torch import load", "torch"),
        ("np.load('x')", "np.load"),
        ("read_array(f, allow_pickle=True)", "allow_pickle"),
        ("np.lib.format.read_array(f)", "allow_pickle"),
        ("sympy.sympify(text)", "sympy.sympify"),
    ],
)
def test_what_would_be_seen(tmp_path, source, name):
    (tmp_path / "x.py").write_text(source)
    assert name in _runs(tmp_path / "x.py")


class _Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self):
        return Path.touch, (self._path,)


def test_a_pickle_in_an_artifact_is_not_read(tmp_path):
    spoilt, path = tmp_path / "spoilt", tmp_path / "shard-00000.npz"
    harm = np.array([_Harm(spoilt)], dtype=object)
    np.savez(path, tokens=harm)  # as numpy would keep it
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"1 arrays"
    with pytest.raises(UserError, match="allow_pickle=False"):
        artifacts.read_arrays(path)
    path.write_bytes(pickle.dumps(_Harm(spoilt)))
    for read in (artifacts.read_arrays, artifacts.read_json, artifacts.read_jsonl):
        with pytest.raises(UserError):
            read(path)
    assert not spoilt.exists()
    pickle.loads(path.read_bytes())
    assert spoilt.exists()  # so it would have been


# Names of files that others wrote.

OUTSIDE = ["../x", "a/../../x", "/tmp/x", "..", "a/..", "../../../etc/passwd"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder_only(tmp_path, name):
    made = {"stage": "prm", "fields": {}, "needs": {}}
    made["files"] = {name: {"bytes": 0, "sha256": ""}}
    made["fingerprint"] = manifest._fingerprint(made)
    artifacts.write_json(tmp_path / "manifest.json", made | {"seconds": 1.0})
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        manifest.read_manifest(tmp_path)


def test_names_inside_are_right():
    for name in ("shard-00000.npz", "params/d/0", "a..b/c", "..a"):
        assert manifest.is_inside(name)


def test_an_index_names_files_beside_it_only(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    secret = tmp_path.parent / "secret.safetensors"
    secret.write_bytes(b"")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    index_path = tmp_path / "model.safetensors.index.json"
    index_path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="secret.*not beside it"):
        HuggingFaceSource(tmp_path)


bucket = pytest.fixture(contents)


def test_objects_of_a_bucket_stay_in_the_folder(bucket, tmp_path):
    Bucket().pipe_file("gs://bucket/run/data/x", b"right")
    for name in ("/bucket/run/../../out", "/bucket/run/data/../../../out"):
        Bucket.store[name] = Bucket.store["/bucket/run/data/x"]
    local = tmp_path / "a" / "b" / "c"
    assert buckets.download("gs://bucket/run", local)
    kept = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert kept == [Path("a/b/c/data/x")]


# Text on the page.

HOSTILE = (
    "</script><script>document.title='SPOILT'</script>"
    "<img src=x onerror=\"document.title='SPOILT'\">"
    "<svg onload=\"document.title='SPOILT'\">"
    "'\"><iframe srcdoc=\"<script>parent.document.title='SPOILT'</script>\"></iframe>"
    '<a href="javascript:document.title=\'SPOILT\'" autofocus onfocus="document.'
    "title='SPOILT'\">a</a>"
)


def _dom(path: Path) -> str:
    """What headless Chromium makes of a page, once its scripts have run."""
    # Of a short name: there are sockets in it, whose names are bounded.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--disable-dev-shm-usage", "--no-zygote"]
        command += [f"--user-data-dir={folder}", "--virtual-time-budget=2000"]
        done = subprocess.run(
            [*command, "--dump-dom", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "HOME": folder, "TMPDIR": folder},
        )
    assert "<html" in done.stdout, done.stderr[-500:]
    return done.stdout


@pytest.mark.slow
def test_a_browser_shows_the_text_of_a_response_and_runs_none_of_it(tmp_path):
    if not shutil.which("chromium"):
        pytest.skip("needs chromium on the PATH")
    raw = tmp_path / "raw.html"
    script = "<script>document.title='SPOILT'</script>"
    raw.write_text(f"<!doctype html><title>a</title>{script}")
    assert "<title>SPOILT</title>" in _dom(raw)  # it does run scripts
    step = {"text": HOSTILE, "q": 0.5, "advantage": 0.1}
    row = {"prompt": HOSTILE, "answer": HOSTILE, "correct": True}
    row["pav"] = {"orm": 0.5, "steps": [step]}
    bad = {"prompt": "x", "pav": {"error": HOSTILE}}
    source = tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in (row, bad)))
    page = steps_page.write(source, tmp_path / "page.html", count=3)
    dom = _dom(page)
    title = re.search("<title>(.*?)</title>", dom)[1]
    assert title == "scored.jsonl"
    assert "&lt;script&gt;document.title='SPOILT'" in dom
    elements: list[tuple[str, list]] = []
    reader = html.parser.HTMLParser()
    reader.handle_starttag = lambda tag, attributes: elements.append((tag, attributes))
    reader.feed(dom)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in elements}
    names = {name for _, attributes in elements for name, _ in attributes}
    assert names and not [name for name in names if name.startswith("on")]


# Grading.

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+|\s+|.", re.S)
_GOLDS = (r"\frac{3}{4}", r"\left(3,\frac{\pi}{2}\right)", "p - q", r"2\sqrt{3}", "x=5")
_GOLDS += (r"\begin{pmatrix}1\\2\end{pmatrix}", r"[-2,7)", r"90^\circ", r"\text{east}")
_GOLDS += (
    "11,\\! 111",
    "x^3+3x-6",
    r"\{1\pm\sqrt{5}\}",
    "52_8",
    r"(-\infty,2)\cup(3,4)",
)
_COSTLY = ("9^{9^{9^9}}", "99999!", r"\binom{99999}{777}", "(x+y+z)^{200}", "2^{-9999}")
_COSTLY += (r"\sum_{k=1}^{10^9} k", r"\sqrt[97]{3}", "10^{10^{10}}", "x^{x^{x^x}}")
_ODD = ("\0", "\ud800", "٣", "−", "𝑥", "#", "__import__('os')", "%", "&", "\\\\", "~")


def _fuzzed(golds: list[str], count: int, seed: int):
    """(reference answer, answer) pairs; the answers are made of parts of answers."""
    rng = random.Random(seed)
    tokens = [token for gold in golds for token in _TOKEN.findall(gold)]
    for number in range(count):
        gold = rng.choice(golds)
        answer = _TOKEN.findall(rng.choice((gold, rng.choice(golds))))
        for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
            place = rng.randrange(len(answer) + 1)
            change = rng.randrange(7)
            if change < 2:
                answer.insert(place, rng.choice(tokens))
            elif change == 2 and answer:
                del answer[rng.randrange(len(answer))]
            elif change == 3 and answer:
                answer[rng.randrange(len(answer))] = rng.choice(tokens)
            elif change == 4:
                answer[place:place] = answer[rng.randrange(len(answer) + 1) :] * 2
            elif change == 5:
                answer = ["{", *answer, "}", "^", *answer[:5]]
            else:
                answer.insert(place, rng.choice(_ODD))
        if number % 500 == 499:
            answer.insert(0, rng.choice(_COSTLY))
        yield gold, "".join(answer)


def _children() -> set[int]:
    """Processes that this one has started, and that are there."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return found


def _peak_of_children() -> int:
    """Bytes that the largest of the processes that have ended ever had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def _bounded(golds: list[str], count: int, monkeypatch) -> Counter:
    """Grades fuzzed answers, with a bound on each; gives how many got each grade."""
    before, peak = _children(), _peak_of_children()
    pool = algebra.Workers(1, seconds=0.5)
    monkeypatch.setattr(algebra, "workers", lambda: pool)
    grading.compare.cache_clear()
    comparing.compare.cache_clear()
    found, slowest = Counter(), 0.0
    for gold, answer in _fuzzed(golds, count, seed=17):
        start = time.thread_time()  # not of the worker, which the kernel ends
        grade = grading.grade(gold, rf"so \boxed{{{answer}}}")
        slowest = max(slowest, time.thread_time() - start)
        found[grade] += 1
        if answer == gold:
            assert grade is Grade.CORRECT
    pool.close()
    grading.compare.cache_clear()
    comparing.compare.cache_clear()
    print(dict(found), f"slowest {slowest:.3f} s here, {pool.asked} by algebra")
    assert slowest < 2.0
    assert _children() == before
    # The most of any child so far, so that one of another test may have had more.
    assert _peak_of_children() <= max(3 << 30, peak)
    assert found[Grade.CORRECT] and found[Grade.WRONG] and found[Grade.UNPARSED]
    return found


def test_fuzzed_answers_are_bounded(monkeypatch):
    _bounded(list(_GOLDS), 1000, monkeypatch)


@pytest.mark.slow
def test_fuzzed_answers_of_math(monkeypatch, math500, request):
    """`make soak` has ten thousand of them."""
    golds = sorted({row["answer"] for row in math500})
    count = request.config.getoption("fuzzed")
    found = _bounded(golds, count, monkeypatch)
    assert sum(found.values()) == count
