"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# The machines that run this are shared and noisy: how long an example takes says nothing about the code.
settings.register_profile("pilotage", deadline=None)
settings.load_profile("pilotage")
