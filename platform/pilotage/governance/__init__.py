"""Governance: whether what was decided can be shown again."""
