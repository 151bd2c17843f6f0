"""Experiments: many runs, and what can be said of them together."""
