"""What a number of right answers says: of one network, and of two on the same examples."""

from scipy.stats import binomtest


def interval(right: int, examples: int) -> tuple[float, float]:
    """The share of right answers lies in here with 95 % confidence: Wilson's interval (1927), which holds near 100 %.

    It speaks of other test examples of the same kind, not of other seeds.
    """
    low, high = binomtest(right, examples).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p of two networks on the same examples.

    How often a fair coin would share out so unequally the examples that one of the two alone got right (McNemar 1947;
    exact by the binomial distribution). Where there is no such example, 1.
    """
    either = only_first + only_second
    return float(binomtest(only_first, either).pvalue) if either else 1.0
