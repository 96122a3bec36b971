"""How it is measured: calls in turns, memory that stays, results kept, compared and drawn."""
