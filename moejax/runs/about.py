"""What a run keeps of its data in each checkpoint, so that its model can be made, and asked, without them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moejax.data.dataset import Dataset
from moejax.errors import UserError

NAME, TOKENIZER = "data.json", "tokenizer.json"


@dataclass(frozen=True)
class About:
    """Facts about a run's data, some of `Dataset.record`.

    Attributes:
      name: the name of the data set.
      num_classes: classes; of several tasks those of the first.
      classes: the names of the classes; empty where they have none.
      tasks: of a set for several tasks, the number of classes of each by its name.
      shapes, dtypes: of the arrays of an example, by name.
      grounds: of images, see `moejax.data.ink.grounds`.
      tokenizer: the text of the tokenizer.json that sentences were tokenized with.
    """

    name: str
    num_classes: int
    classes: Sequence[str]
    tasks: Mapping[str, int]
    shapes: Mapping[str, Sequence[int]]
    dtypes: Mapping[str, str]
    grounds: Sequence[float] | None = None
    tokenizer: str | None = None

    @property
    def to_answer(self) -> int | tuple[int, ...]:
        """As `Dataset.to_answer`."""
        return tuple(self.tasks.values()) or self.num_classes

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        """As `Dataset.image_shape`."""
        return tuple(self.shapes["image"]) if "image" in self.shapes else None

    def record(self) -> tuple[dict[str, Any], str | None]:
        """From what `of` makes them again."""
        facts = dataclasses.asdict(self)
        tokenizer = facts.pop("tokenizer")
        return facts, tokenizer

    @classmethod
    def of(cls, record: Mapping[str, Any], tokenizer: str | None) -> "About":
        """Those of a data set's record."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in record]
        return cls(**{name: record[name] for name in names}, tokenizer=tokenizer)

    @classmethod
    def read(cls, checkpoint: Path) -> "About":
        """Those that a verified checkpoint holds; UserError if it holds none."""
        if not (checkpoint / NAME).exists():
            raise UserError(
                f"{checkpoint} has no {NAME}: it was written before runs kept what their data are; train once more"
                " with this version."
            )
        tokenizer = checkpoint / TOKENIZER
        text = tokenizer.read_text(encoding="utf-8") if tokenizer.exists() else None
        return cls.of(json.loads((checkpoint / NAME).read_text(encoding="utf-8")), text)


def files(data: Dataset) -> dict[str, bytes]:
    """The files of a checkpoint that hold the facts about its data."""
    facts = {NAME: (json.dumps(data.record, indent=1) + "\n").encode()}
    return facts | ({} if data.tokenizer is None else {TOKENIZER: data.tokenizer.encode()})
