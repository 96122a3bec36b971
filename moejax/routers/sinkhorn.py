"""A router that balances the choice of a whole group in training."""

from moejax import routing
from moejax.routers.router import Router


class SinkhornTopK(Router):
    """The k best of a balanced plan (BASE, S-BASE)."""

    evens_load = True

    def choose(self, x, context):
        """In training of the plan, at evaluation of the logits; weights by softmax."""
        logits = self.logits(x, context)
        return routing.sinkhorn_top_k(logits, self.k, context.mask, balance=context.train, given=context.given)
