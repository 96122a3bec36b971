"""The head of the page: the score, and the run's other numbers."""

import math

from moejax.report.record import Record, number
from moejax.report.style import MOST_LAYERS

KINDS = ("soft", "sparse", "dense", "multi_gate")


def kind(record: Record) -> str:
    """Such as `soft mixture of 8 experts`, as far as the run says."""
    layer = f"{record.layer.replace('_', '-')} mixture" if record.layer in KINDS else record.layer
    if not record.experts:
        return layer
    experts = "1 expert" if record.experts == 1 else f"{record.experts} experts"
    return f"{layer} of {experts}" if layer else experts


def headline(record: Record) -> tuple[str, str, str]:
    """The figure of the whole run, its unit, and what it is: of text bits a byte, else the accuracy in per cent."""
    if record.is_text:
        return bits(record)
    accuracy, meaning = score(record)
    return ("?", "", meaning) if math.isnan(accuracy) else (f"{100 * accuracy:.2f}", "%", meaning)


def bits(record: Record) -> tuple[str, str, str]:
    """The same of text: of the test, else of the last validation where a token is a byte."""
    found = number(record.summary.get("test_bits_per_byte", record.test.get("bits_per_byte")))
    if math.isfinite(found):
        right, majority = record.tested("accuracy"), number(record.summary.get("majority"))
        meaning = "on held-out text"
        if math.isfinite(right):
            meaning += f"; the next token is right {right:.1%} of the time"
        if math.isfinite(majority):
            meaning += f", the most frequent one {majority:.1%}"
        return f"{found:.3f}", " bits a byte", meaning
    if record.validation and record.in_bytes and math.isfinite(nats := float(record.validation["loss"][-1])):
        step = record.validation["step"][-1]
        return f"{nats / math.log(2):.3f}", " bits a byte", f"on validation text at step {step:,.0f}; not tested yet"
    return "?", "", "not tested yet"


def score(record: Record) -> tuple[float, str]:
    """Accuracy of the test, else of the last validation, in 0..1 (NaN if there is neither), and which of them it is."""
    accuracy = record.tested("accuracy")
    if math.isfinite(accuracy):
        if len(record.of_tasks) > 1:
            return accuracy, f"test accuracy, the mean of {len(record.of_tasks)} tasks"
        wrong, total = _errors(record, accuracy)
        meaning = f"test accuracy: {wrong:,} errors out of {total:,}" if total else "test accuracy"
        return accuracy, f"{meaning}{_beside(record)}"
    if record.validation and math.isfinite(accuracy := float(record.validation["accuracy"][-1])):
        return accuracy, f"validation accuracy at step {record.validation['step'][-1]:,.0f}; not tested yet"
    return math.nan, "no accuracy was measured"


def _beside(record: Record) -> str:
    """Of yes or no, F1; and what one gets who always gives the most frequent answer, where that is much."""
    f1, majority = record.tested("f1"), number(record.summary.get("majority"))
    said = f", F1 {f1:.2%}" if math.isfinite(f1) else ""
    return f"{said}; always the most frequent answer {majority:.2%}" if majority > 0.25 else said


def facts(record: Record) -> list[tuple[str, str]]:
    """The other numbers that the run recorded, by name."""
    summary = record.summary
    rate = number(summary.get("examples_per_second"))
    if math.isnan(rate) and record.train:
        rate = float(record.train["examples_per_second"][-1])
    of_text = [("test accuracy, next token", _text(record.tested("accuracy"), "{:.2%}"))] if record.is_text else []
    found = [
        *((f"{task}, test accuracy", _text(value, "{:.2%}")) for task, value in record.of_tasks.items()),
        *of_text,
        (f"test loss{', nats a token' if record.is_text else ''}", _text(record.tested("loss"), "{:.4f}")),
        ("training time", _duration(number(summary.get("seconds")))),
        ("examples per second", _text(rate, "{:,.0f}")),
        ("parameters", _text(number(summary.get("parameters")), "{:,.0f}")),
        ("FLOPs per example", _compact(number(summary.get("flops_per_example")))),
        ("experts computed per token", _list(summary.get("experts_computed"))),
        ("dropped on test", _text(number(summary.get("dropped")), "{:.2%}")),
        ("largest load", _text(1 + number(summary.get("max_violation")), "{:.2f} of an equal share")),
        ("dead experts", _text(number(summary.get("dead_experts")), "{:.0f}")),
        *(
            (f"experts by {record.respect_name(name)}", _shares(record, name))
            for name in ("position", "content", "label")
        ),
        ("training examples", _text(number(summary.get("train_examples")), "{:,.0f}")),
        ("data", ", ".join(str(summary[key]) for key in ("dataset", "data_source") if summary.get(key))),
        ("began from", _beginning(summary.get("init"))),
        ("device", str(summary.get("device") or record.environment.get("device") or "")),
        ("seed", str(record.config.get("seed", summary.get("seed", "")))),
    ]
    return [(what, value) for what, value in found if value]


def _beginning(init: object) -> str:
    """The run and the step from whose parameters this one began."""
    return f"step {init.get('step')} of {init.get('run')}" if isinstance(init, dict) else ""


def _list(values: object) -> str:
    """Such as `1.31, 0.92`, a number a layer."""
    return ", ".join(_text(number(value), "{:.2f}") for value in values) if isinstance(values, list) else ""


def _shares(record: Record, respect: str) -> str:
    """`12 %, 43 %`, a layer each, or the lowest and the highest of many; empty if not recorded."""
    shares = [share for share in record.routing.get(f"experts_by_{respect}", []) if math.isfinite(share)]
    if len(shares) > MOST_LAYERS:
        return f"{min(shares):.0%} to {max(shares):.0%}"
    return ", ".join(f"{share:.0%}" for share in shares)


def _errors(record: Record, accuracy: float) -> tuple[int, int]:
    """Wrong test examples, and all: from the confusion counts if the run has them, else from the accuracy."""
    if record.has("confusion"):
        counts = record.routing["confusion"]
        return int(counts.sum() - counts.trace()), int(counts.sum())
    examples = number(record.summary.get("test_examples"))
    total = int(examples) if math.isfinite(examples) else 0
    return round((1 - accuracy) * total), total


def _text(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else ""


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _compact(value: float) -> str:
    """Three digits and a unit: `2.31 M`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return _text(value, "{:.0f}")
