"""Data in: sources, the lake, contracts and quarantine, batch expectations. Knows nothing of models."""
