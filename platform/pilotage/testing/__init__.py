"""Fakes that ship with the package: they pass the same contract tests as the real things."""
