"""What a name that is no option here may have meant: an option of another choice, or one of a like name."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from moejax.config.schema import Section, everything
from moejax.files import abridged


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


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest: by its words, its initials, or its letters."""
    known = list(known)
    section, _, last = name.rpartition(".")
    words = set(last.split("_"))

    def last_of(option: str) -> str:
        return option.rpartition(".")[2]

    ways = (
        [option for option in known if option.startswith(f"{name}.")],
        [option for option in known if last_of(option) == last],
        [option for option in known if words <= set(last_of(option).split("_"))],
        [
            option
            for option in known
            if last == "".join(word[:1] for word in last_of(option).split("_")) and len(last) > 1
        ],
        difflib.get_close_matches(name, known, n=1),
    )
    for found in ways:
        in_section = [option for option in found if option.rpartition(".")[0] == section]
        if found:
            return (in_section or found)[0]
    lasts = {last_of(option): option for option in known}
    return next((lasts[near] for near in difflib.get_close_matches(last, lasts, n=1)), None)
