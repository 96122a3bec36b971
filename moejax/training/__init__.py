"""Training: objective, loop, evaluation, checkpoints and what a run leaves in its folder."""
