"""Mixture-of-Experts for JAX/Flax."""
