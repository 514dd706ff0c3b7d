"""Retraining: what asked for it, its one attempt at a time, what it came to, and what happens when it does not help."""
