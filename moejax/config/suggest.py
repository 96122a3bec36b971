"""What a name that is no option here may have meant: an option of another choice, or one of a like name."""

from collections.abc import Mapping, Sequence

from moejax.config.schema import Section, everything
from moejax.errors import abridged, did_you_mean


def unknown(name: str, sections: Mapping[str, Section], others: Sequence[str] = ()) -> str:
    """The sentence for a name that the chosen sections have no option of."""
    place, _, _ = name.rpartition(".")
    if belongs := everything().get(name):
        section = sections[place]
        chosen = [words for words in dict.fromkeys(section.came_with.values()) if words] or [f"{place} as it is"]
        there = ", ".join(option for option, words in section.came_with.items() if words)
        return (
            f"{name} has no effect with {max(chosen, key=len)}; it belongs to {' or to '.join(filter(None, belongs))}."
            f" {place} has here: {there}."
        )
    near = did_you_mean(name, [*others, *everything()])
    return f"There is no option {abridged(name)}; " + (f"did you mean {near}?" if near else "--help lists them all.")
