"""A part of the page: what is drawn, what it needs, and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from moejax.report.record import Record


@dataclass(frozen=True)
class Section:
    """A figure and its words. `name` is its file under `figures/` and its anchor on the page.

    What is drawn as HTML stands on the page alone.
    """

    name: str
    title: str
    good: str  # what the figure of a healthy run looks like
    bad: str  # and that of an ailing one
    draw: Callable[[Record], Figure | str]
    finding: Callable[[Record], str]  # what it shows in this run, a sentence
    needs: tuple[str, ...]  # keys of the record without which it cannot be drawn
    one_of: tuple[str, ...] = ()  # at least one of these too
    only: tuple[str, ...] = ()  # kinds of MoE layer it speaks of; all if empty
    optional: bool = False  # of few runs: where something is missing, the page says nothing
    several: bool = False  # it means something with two experts or more
    of_images: bool = False  # it speaks of images

    def missing(self, record: Record) -> list[str]:
        """What the record lacks for this figure."""
        missing = [key for key in self.needs if not record.has(key)]
        return missing if any(map(record.has, self.one_of)) else [*missing, *self.one_of]

    def speaks_of(self, record: Record) -> bool:
        """Whether the figure means anything for the run's kind of layer."""
        if self.optional and self.missing(record):
            return False
        if (self.several and record.experts == 1) or (self.of_images and not record.is_images):
            return False
        return not self.only or not record.layer or record.layer in self.only
