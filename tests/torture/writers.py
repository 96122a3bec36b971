"""Two processes at once on one run, one cache, one study and one sweep; and readers of a run that is being written.

Of two that write the same run one is refused in a sentence, and the other ends to the bits of a run that was alone.
What may be shared, such as a cache and a study, is right for both. The second one comes at random moments.
"""

import contextlib
import io
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.torture import small_runs
from tests.torture.figure import Figure
from tests.torture.lab import RUN, Lab, is_as, needs_compiler, undisturbed

SEED = 37
REFUSED = ("Another process is writing", "already holds a run", "is not a run folder")
WORDS = ("moejax: ", "note: ")
ROWS = 12
# Makes a run in no time, as a run of a sweep does it, and says so in a file of its own.
_STAND_IN = """
import json, sys, time
from pathlib import Path
from moejax.config import from_json, to_json
from moejax.commandline import configure, parse
words = sys.argv[1:]
folder = Path(words[-1])
folder.mkdir(parents=True, exist_ok=True)
time.sleep(0.3)
(folder / "config.json").write_text(to_json(configure(parse(words))))
(folder / "summary.json").write_text(json.dumps({"test_accuracy": 0.5, "seed": 0}))
"""
_SWEEP = """
import sys
from moejax import entry
from moejax.sweep import processes
from moejax.verbs import sweep
processes.run_all.__kwdefaults__["program"] = (sys.executable, sys.argv[1])
entry.end(entry.run(lambda: sweep.main(sys.argv[2:])))
"""


@needs_compiler
def torture(quick: bool) -> Iterator[Figure]:
    """All of it; at fewer moments if `quick`."""
    with tempfile.TemporaryDirectory(prefix="moejax-writers-") as place:
        with Lab(Path(place), 0) as one, Lab(Path(place), 1) as other:
            other.folder = other.seen = one.folder
            expected, _ = undisturbed(one, RUN)
            start = time.monotonic()
            one.begin(RUN)
            longest = time.monotonic() - start
            for what, begun, begins in (
                ("begun twice", False, True),
                ("begun, and gone on with at once", False, False),
                ("gone on with twice", True, False),
            ):
                yield _one_run(what, one, other, expected, longest, (begun, begins), 1 if quick else 20)
            yield _one_cache(one, other, expected, 1 if quick else 6)
            yield _read_meanwhile(one, expected, 1 if quick else 5)
        yield _one_study(Path(place), 2 if quick else 30)
        yield _one_sweep(Path(place), 1 if quick else 10)


def _one_run(
    what: str, one: Lab, other: Lab, expected: dict, longest: float, how: tuple[bool, bool], count: int
) -> Figure:
    """`how`: whether the run was begun before, and whether the second process begins it too."""
    (begun, begins), draw = how, random.Random(SEED)
    wrong = refused = 0
    for _ in range(count):
        one.clear()
        if begun:  # and killed in the middle
            one.run(RUN, number=300)
        seconds = round(draw.uniform(0, 0.6 * longest), 3)
        codes = _at_once(partial(one.run, RUN, begins=not begun), partial(other.run, RUN, begins=begins), seconds)
        case = f"{what}, the second after {seconds} s"
        for lab, code in zip((one, other), codes, strict=True):
            refused += code == 2
            wrong += _is_wrong(lab, code, case)
        ended = [lab for lab, code in zip((one, other), codes, strict=True) if code == 0]
        wrong += is_as(ended[0], expected, case) if ended else one.problem(f"{case}: neither ended")
    found = f"{wrong} wrong" if wrong else f"{refused} refused in a sentence, all runs to the same bits"
    return Figure(f"a run {what}", count, found, not wrong and (refused > 0 or count == 1))


def _at_once(first: Callable[[], int], second: Callable[[], int], seconds: float) -> list[int]:
    """Both, the second so much later; their exit codes."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(first)]
        time.sleep(seconds)
        both.append(pool.submit(second))
        return [code.result() for code in both]


def _is_wrong(lab: Lab, code: int, case: str) -> int:
    """1 if it neither ended nor was refused in a sentence; says so."""
    said = lab.said("err")
    is_sentence = said.startswith("moejax: ") and said.count("\n") == 1 and any(word in said for word in REFUSED)
    return 0 if code == 0 or (code == 2 and is_sentence) else lab.problem(f"{case}: exit code {code}")


def _one_cache(one: Lab, other: Lab, expected: dict, count: int) -> Figure:
    """Two runs, in folders of their own, that fill one cache of programs and of tokenizers."""
    draw, wrong, shared = random.Random(SEED), 0, other.folder
    other.folder = other.seen = other.room / "run"
    for i in range(count):
        cache = str(one.room.parent / f"cache{i}")
        environment = {"MOEJAX_CACHE_DIR": cache, "JAX_COMPILATION_CACHE_DIR": f"{cache}/xla"}
        seconds = round(draw.uniform(0, 1), 3)
        codes = _at_once(*(partial(lab.begin, RUN, environment=environment) for lab in (one, other)), seconds)
        for lab, code in zip((one, other), codes, strict=True):
            case = f"two runs on the new cache {cache}, the second after {seconds} s"
            wrong += lab.problem(f"{case}: exit code {code}") if code else is_as(lab, expected, case)
            wrong += lab.problem(f"{case}: not without a word") if lab.said("err") else 0
        left = [str(path) for path in Path(cache).rglob("*.partial")]
        wrong += one.problem(f"{left} stayed in the cache") if left else 0
    other.folder = other.seen = shared
    return Figure("two runs that fill one cache", count, f"{wrong} wrong" if wrong else "both right", not wrong)


def _read_meanwhile(lab: Lab, expected: dict, count: int) -> Figure:
    """`report`, `verify` and `compare` with a finished one, by turns, as long as the run is written."""
    reads, wrong = 0, 0
    whole = shutil.copytree(lab.seen, lab.room / "whole", dirs_exist_ok=True)
    for _ in range(count):
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(lab.begin, RUN)
            while not written.done():
                for verb, *others in (("report",), ("verify",), ("compare", whole)):
                    said = small_runs.say(verb, lab.folder, *others)
                    fine = said.code in (0, 1, 2) and all(line.startswith(WORDS) for line in said.err.splitlines())
                    wrong += 0 if fine else lab.problem(f"{verb} of a run that is written: {said}")
                    reads += 1
        case = "a run that was read meanwhile"
        wrong += lab.problem(f"{case}: {code}") if (code := written.result()) else is_as(lab, expected, case)
    found = f"{wrong} wrong" if wrong else "sentences or reports, and the runs ended to the same bits"
    return Figure("a run that others read as it is written", reads, found, not wrong)


def _one_study(place: Path, count: int) -> Figure:
    """Two processes of one study: each of its runs is made once, and no row is lost."""
    wrong = 0
    for i in range(count):
        root = place / f"study{i}"
        fork = multiprocessing.get_context("spawn")
        both = [fork.Process(target=_study, args=(root, SEED + 2 * i + n)) for n in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        rows = json.loads((root / "experiments" / "small" / "results.json").read_text(encoding="utf-8"))
        made = len((root / "made").read_text(encoding="utf-8").splitlines())
        if sorted(row["seed"] for row in rows) != list(range(ROWS)) or made != ROWS or any(p.exitcode for p in both):
            print(f"  seed {SEED + 2 * i}: {len(rows)} rows of {made} runs")
            wrong += 1
    found = f"{wrong} wrong" if wrong else f"each of {ROWS} runs made once, no row lost"
    return Figure("one study, made by two processes", count, found, not wrong)


def _study(root: Path, seed: int) -> None:
    from experiments import study

    draw = random.Random(seed)

    def make(words: list[str], out: Path) -> float:
        out.mkdir(parents=True)
        time.sleep(draw.uniform(0, 0.02))
        (out / "summary.json").write_text('{"seconds": 1}', encoding="utf-8")
        (out / "env.json").write_text("{}", encoding="utf-8")
        with open(root / "made", "a", encoding="utf-8") as file:
            file.write(f"{out.name}\n")
        return 1.0

    study.ROOT, study._main_job, study.readmes.write = root, make, lambda _: None
    small = study.Study("small", lambda rows: f"{len(rows)}\n")
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["--config", "mnist_soft", "--seed"]
        study.collect(small, [study.Run({"seed": i}, [*words, str(i)]) for i in range(ROWS)])


def _one_sweep(place: Path, count: int) -> Figure:
    """The same sweep twice at once: one makes it, the other is refused, or comes when all is done."""
    (place / "stand_in.py").write_text(_STAND_IN, encoding="utf-8")
    draw, wrong, refused = random.Random(SEED), 0, 0
    for i in range(count):
        folder = place / f"sweep{i}"
        words = ["--config", "mnist_tiny", "--seed", "0..3", "--out", str(folder)]
        command = [sys.executable, "-c", _SWEEP, str(place / "stand_in.py"), *words]
        both = []
        for seconds in (0, draw.uniform(0, 2)):
            time.sleep(seconds)
            both.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"))
        said = [process.communicate() for process in both]
        for process, (out, err) in zip(both, said, strict=True):
            is_refused = process.returncode == 2 and err.startswith("moejax: Another process is writing")
            refused += is_refused
            if process.returncode and not is_refused:
                print(f"  exit code {process.returncode} of a sweep, the second after {seconds:.2f} s: {out}{err}")
                wrong += 1
        rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if [bool(row["summary"]) for row in rows] != [True] * 4:
            print(f"  {rows} after a second sweep {seconds:.2f} s after the first")
            wrong += 1
    found = f"{wrong} wrong" if wrong else f"{refused} refused in a sentence, all runs finished"
    return Figure("one sweep, made by two processes", count, found, not wrong)
