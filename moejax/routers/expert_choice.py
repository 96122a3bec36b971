"""The router whose experts choose."""

from typing import ClassVar

from moejax import routing
from moejax.routers.router import Router


class ExpertChoice(Router):
    """Each expert takes the tokens that suit it best (Expert Choice)."""

    token_choice = False
    weights_sum_to_1 = False
    priority: ClassVar[str] = "position"  # no option: there is no queue

    def route(self, x, capacity, context):
        """Each expert takes `capacity` tokens of a group."""
        if capacity is None:
            raise ValueError("capacity is None, but with expert choice it says how many tokens an expert takes.")
        return routing.expert_choice(self.logits(x, context), capacity, context.mask)
