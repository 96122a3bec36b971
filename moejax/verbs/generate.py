"""`moejax generate RUN --prompt "def "`: text that a run's language model writes, as it is made.

moejax generate runs/text_sparse-20260101-120000 --prompt "def "
moejax generate runs/text_sparse-20260101-120000 --temperature 0 --tokens 50
cat beginning.py | moejax generate runs/text_sparse-20260101-120000 --prompt - --samples 4 --json

The prompt is printed, too. Several samples are written at once: the first is printed as it is made, then the others.
How fast it was is told on standard error.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from moejax.verbs.parser import Parser

if TYPE_CHECKING:
    from numpy import ndarray

    from moejax.runs.text import Written


def parser() -> Parser:
    """A run, a prompt, and how tokens are chosen."""
    parser = Parser("generate", __doc__)
    parser.add_run()
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what to go on from; - reads standard input")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="how many at most (default 200)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0: the most probable token (default 0.8)"
    )
    parser.add_argument(
        "--top-p", type=float, default=0.95, metavar="P", help="share of the probability to choose of (default 0.95)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="texts to write at once (default 1)")
    parser.add_checkpoint()
    parser.add_argument("--json", action="store_true", help="an object: prompt, samples, tokens_per_second, step")
    return parser


def main(words: Sequence[str]) -> None:
    """Print the prompt and what follows it."""
    asked = parser().parse_args(words)
    from moejax.runs import load
    from moejax.runs.ask import STANDARD_INPUT, text_of
    from moejax.runs.programs import keep_programs
    from moejax.runs.text import Written

    keep_programs()
    prompt = text_of(None) if asked.prompt == STANDARD_INPUT else asked.prompt
    model = load(asked.run, asked.checkpoint)
    options = {name: getattr(asked, name) for name in ("tokens", "temperature", "top_p", "seed", "samples")}
    steps = model.writer.write(prompt, **options)
    samples = [Written(model.writer.tool) for _ in range(asked.samples)]
    rate = _follow(steps, samples, prompt, silent if asked.json else show)
    if asked.json:
        written = [{"text": sample.text, "tokens": sample.tokens, "ended": sample.ended} for sample in samples]
        facts = {"prompt": prompt, "samples": written, "tokens_per_second": rate, "step": model.step}
        print(json.dumps(facts | {name: options[name] for name in ("temperature", "top_p", "seed")}, indent=1))
    else:
        count = sum(sample.tokens for sample in samples)
        print(f"{count:,} tokens" + (f", {rate:,.0f} tokens/s" if rate else ""), file=sys.stderr)


def _follow(
    steps: "Iterable[ndarray]", samples: "Sequence[Written]", prompt: str, say: Callable[[str], None]
) -> float | None:
    """Tell the first sample as it is made, then the others; tokens a second.

    From the second token on, for the first one waits until the program is compiled; None if there is no second.
    """
    arrived: list[float] = []
    say(_heading(0, samples) + prompt)
    for tokens in steps:
        arrived.append(time.perf_counter())
        new = [sample.add(token) for sample, token in zip(samples, tokens.tolist(), strict=True)]
        say(new[0])
    told = len(samples[0].text)
    say(samples[0].finished()[told:])
    for n, sample in enumerate(samples[1:], start=1):
        say(f"\n{_heading(n, samples)}{prompt}{sample.finished()}")
    say("\n")
    count = sum(max(sample.tokens - 1, 0) for sample in samples)
    return round(count / (arrived[-1] - arrived[0]), 1) if count else None


def _heading(n: int, samples: "Sequence[Written]") -> str:
    return f"--- {n + 1} of {len(samples)}\n" if len(samples) > 1 else ""


def show(text: str) -> None:
    """Print it at once."""
    print(text, end="", flush=True)


def silent(text: str) -> None:
    """Print nothing."""
