"""The router whose experts choose."""

from collections.abc import Iterator
from typing import Any, ClassVar

from moejax import routing
from moejax.routers.router import Router
from moejax.routing.expert_choice import ScoreFunction


class ExpertChoice(Router):
    """Each expert takes the tokens that suit it best (Expert Choice).

    Args:
      score_function: a token's score for an expert: a softmax over experts, or the sigmoid of the expert's own logit.

    With one expert, scored by `sigmoid`, and a residual connection around the layer it is Mixture-of-Depths (Raposo et
    al. 2024): `capacity_factor` is the share of tokens that the expert takes, .125 in the paper, and the others pass
    by. Set `eval_capacity_factor` to the same, and `group_size` to 0, so that the share is of each sequence.

    Which tokens are taken depends on later ones: a model that is to predict those has seen them.
    """

    token_choice = False
    priority: ClassVar[str] = "position"  # no option: there is no queue

    score_function: ScoreFunction = "softmax"

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        yield from Router.contradictions(o)
        if o.num_experts == 1 and o.score_function == "softmax":
            yield (
                "`num_experts` is 1, over which the softmax of the router expert_choice is always 1 and has no"
                " gradient; use `score_function` sigmoid."
            )

    @property
    def weights_sum_to_1(self) -> bool:
        """Of a token that all experts take."""
        return self.score_function == "softmax"

    def route(self, x, capacity, context):
        """Each expert takes `capacity` tokens of a group."""
        if capacity is None:
            raise ValueError("capacity is None, but with expert choice it says how many tokens an expert takes.")
        logits = self.logits(x, context)
        return routing.expert_choice(logits, capacity, context.mask, score_function=self.score_function)
