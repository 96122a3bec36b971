"""What runs depend on, examined on this machine: `examine` yields what was found, section by section.

A finding says what there is and, if something is amiss, in one sentence what that does and how to mend it. Each
examination may itself fail, as on a broken installation: that is a finding too.
"""

from collections.abc import Callable, Iterator

from moejax.doctor import computing, data, machine, versions
from moejax.doctor.finding import Finding

__all__ = ["SECTIONS", "Finding", "examine"]

SECTIONS: dict[str, tuple[Callable[[], Iterator[Finding]], ...]] = {
    "versions": (versions.python, versions.packages, versions.variables),
    "machine": (machine.devices, machine.cores_and_memory),
    "computing": (computing.grouped_products, computing.matrix_product),
    "data": (data.image_sets, data.text_pairs, data.folders),
}


def examine() -> Iterator[tuple[str, Finding]]:
    """Section and finding, as they come; takes about five seconds."""
    for section, examinations in SECTIONS.items():
        for examination in examinations:
            try:
                for finding in examination():
                    yield section, finding
            except Exception as error:  # a doctor does not fall ill with its patient
                name = examination.__name__.replace("_", " ")
                yield (
                    section,
                    Finding(name, "", f"It cannot be examined: {type(error).__name__} {error}".rstrip() + "."),
                )
