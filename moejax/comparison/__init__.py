"""Finished runs side by side, from their files alone: `compare` them, `tables` in letters, one page with figures.

comparison = compare([Path("runs/a"), Path("runs/b")])
comparison.scores["A"]       accuracy on test, with its 95 % interval
comparison.text_scores["A"]  of a language model its bits a byte instead, without an interval
comparison.pairs             of each two runs: the examples that one alone got right, and McNemar's exact p
comparison.differences       the options that they do not share, by dotted name
"""

from moejax.comparison.comparison import Comparison, Pair, Run, Score, TextScore, compare
from moejax.comparison.tables import tables

__all__ = ["Comparison", "Pair", "Run", "Score", "TextScore", "compare", "tables"]
