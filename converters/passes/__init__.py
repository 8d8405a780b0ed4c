"""Rewrites of a graph: small, each tested alone. `pipeline.py` says in which order they run."""
