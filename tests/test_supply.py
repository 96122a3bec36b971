"""What comes from others: licences one may use, no data that run as code, and no download that is not pinned."""

import ast
import re
from pathlib import Path

import pytest
from licences import FILE, allowed, licence, needed

from moejax.data import minilm, mnist, mnist_wheel, mrpc, web

ROOT = Path(__file__).parent.parent
SOURCES = [file for room in ("moejax", "experiments", "benchmarks") for file in sorted((ROOT / room).rglob("*.py"))]
RUNS_CODE = {"pickle", "marshal", "joblib", "dill", "cloudpickle", "shelve"}

# Each with why it is safe.
MAY_UNPICKLE = {"moejax/data/mnist_wheel.py": "its unpickler makes plain arrays and refuses every other name"}
MAY_FETCH = {"moejax/data/find.py": "each file has a sha256, which is compared before it is kept"}


def test_all_libraries_have_a_licence_that_is_allowed():
    wrong = {one.metadata["Name"]: licence(one) for one in needed() if not allowed(licence(one))}
    assert not wrong, f"read these licences, and add to ALLOWED or NAMES in tests/licences.py what is right: {wrong}"


def test_the_table_has_the_project_s_own_libraries():
    listed = dict(re.findall(r"^\| ([\w.-]+) \| (.*?) \|$", FILE.read_text(encoding="utf-8"), re.MULTILINE))
    del listed["library"]
    assert {"jax", "flax", "optax", "numpy", "shtab", "filelock"} <= listed.keys()
    assert all(map(allowed, listed.values())), "python -m tests.licences writes it anew"


@pytest.mark.parametrize(
    ("expression", "good"),
    [("MIT", True), ("X OR MIT", True), ("MIT AND X", False), ("(MIT AND ISC) OR X", True), ("", False)],
)
def test_an_expression_is_allowed_if_an_alternative_is(expression, good):
    assert allowed(expression) == good


def risky(source: str) -> list[int]:
    """Lines that make objects, or run code, from data."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if _is_risky(node)]


def _is_risky(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(name.name.partition(".")[0] in RUNS_CODE for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in RUNS_CODE
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in ("eval", "exec")
    words = {word.arg: word.value for word in node.keywords}
    if isinstance(allow := words.get("allow_pickle"), ast.expr) and getattr(allow, "value", True) is not False:
        return True
    whole = ast.unparse(node.func)
    return whole in ("torch.load", "yaml.load", "yaml.unsafe_load") or whole.endswith(".read_pickle")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "x = eval(text)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=yes)",
        "torch.load(f)",
        "yaml.load(f)",
        "pd.read_pickle(f)",
    ],
)
def test_what_makes_objects_from_data_is_seen(source):
    assert risky(source) == [1]


def test_what_makes_none_is_not():
    assert not risky("np.load(f, allow_pickle=False); np.load(f); jax.eval_shape(f); model.eval(); json.load(f)")


def test_nothing_is_unpickled_outside_the_restricted_reader():
    found = {file.relative_to(ROOT).as_posix() for file in SOURCES if risky(file.read_text(encoding="utf-8"))}
    assert found == set(MAY_UNPICKLE)


def test_only_what_compares_a_sum_fetches():
    """By itself; what a library fetches for a source that one names, `tfds` or `hf`, has that library's sums."""
    calls = re.compile(r"\bweb\.fetch\(|urlopen\(|urlretrieve\(|requests\.get\(|hf_hub_download\(|snapshot_download\(")
    found = {file.relative_to(ROOT).as_posix() for file in SOURCES if calls.search(file.read_text(encoding="utf-8"))}
    assert found == {*MAY_FETCH, Path(web.__file__).relative_to(ROOT).as_posix()}


def test_whatever_is_fetched_has_its_sha256_here():
    files = (*mrpc.MRPC.original, *mrpc.MRPC.split, minilm.WEIGHTS, minilm.TOKENIZER)
    sums = [file.sha256 for file in files] + [minilm.WHEEL_SHA256, mnist_wheel.WHEEL_SHA256]
    sums += [*mnist.MNIST.sha256.values(), *mnist.FASHION_MNIST.sha256.values()]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in sums)
