"""Many runs of one command: `plan` says which, `run_all` makes them, `tabulate` says what came out.

planned = plan(["--config", "mnist_tiny", "--moe.num_experts", "4,8", "--seed", "0..2"])
run_all(planned.runs, jobs=1)
write(planned)       the table and the plot
"""

from moejax.sweep.plan import Planned, Sweep, plan
from moejax.sweep.processes import run_all
from moejax.sweep.results import tabulate, write

__all__ = ["Planned", "Sweep", "plan", "run_all", "tabulate", "write"]
