"""Routers that choose the k best experts of a token by a softmax."""

from collections.abc import Iterator
from typing import Any

from moejax import routing
from moejax.options import Count, Positive
from moejax.routers.router import Router, all_experts


class GroupLimited(Router):
    """A router that may limit each token to some groups of experts (DeepSeek-V2 and -V3).

    Args:
      renormalize: scale the k weights of a token to sum to 1; one alone stays as it is.
      num_expert_groups: groups that the experts come in.
      topk_group: groups of experts that a token may use.
      routed_scaling_factor: factor on the weights; 16 in DeepSeek-V2, 2.5 in DeepSeek-V3.
    """

    renormalize: bool = True
    num_expert_groups: Count = 1
    topk_group: Count = 1
    routed_scaling_factor: Positive = 1.0

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        yield from Router.contradictions(o)
        groups, chosen, experts = o.num_expert_groups, o.topk_group, all_experts(o)
        if experts % groups:
            yield f"`num_expert_groups` is {groups}, which does not divide the {experts} experts (`num_experts`)."
        elif chosen > groups:
            yield f"`topk_group` is {chosen}; it must be from 1 to {groups} (`num_expert_groups`)."
        elif experts >= o.k > (most := chosen * experts // groups):
            yield f"`k` is {o.k}, but the chosen groups hold only {most} experts; raise `topk_group`."


class SoftmaxTopK(GroupLimited):
    """Softmax, then the k best, renormalised (GShard, Mixtral) or not (OLMoE)."""

    @property
    def weights_sum_to_1(self) -> bool:
        sum_to_1 = self.k == self.num_experts or (self.renormalize and self.k > 1)
        return sum_to_1 and self.routed_scaling_factor == 1

    def choose(self, x, context):
        return routing.softmax_top_k(
            self.logits(x, context),
            self.k,
            renormalize=self.renormalize,
            scale=self.routed_scaling_factor,
            num_expert_groups=self.num_expert_groups,
            topk_group=self.topk_group,
            given=context.given,
        )


class TopKSoftmax(Router):
    """The k best, then a softmax of those alone (GraniteMoe)."""

    weights_sum_to_1 = True

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        yield from Router.contradictions(o)
        if o.k == 1:
            yield "`k` is 1, which gives the router top_k_softmax no gradient: the only weight is 1; use switch."

    def choose(self, x, context):
        return routing.top_k_softmax(self.logits(x, context), self.k, given=context.given)


class Switch(Router):
    """The one most probable expert, weighted by its probability (Switch)."""

    @staticmethod
    def contradictions(o: Any) -> Iterator[str]:
        if o.k != 1:
            yield f"`k` is {o.k}, but the router switch chooses 1 expert; use softmax_top_k or `k` 1."

    def choose(self, x, context):
        return routing.switch(self.logits(x, context), given=context.given)
