"""Several runs' measurements as one number in a table."""

import statistics
from collections.abc import Sequence


def mean_and_deviation(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Mean ± standard deviation, of one value itself; in per cent for a form that ends in %."""
    scale = 100 if form.endswith("%") else 1
    mean = form.removesuffix("%").format(scale * statistics.mean(values))
    if len(values) > 1:
        mean += " ± " + form.removesuffix("%").format(scale * statistics.stdev(values))
    return mean + (" %" if form.endswith("%") else "")
