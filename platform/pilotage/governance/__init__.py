"""Governance: what is said of a version, whether what was decided can be shown again, and how a person is forgotten."""
