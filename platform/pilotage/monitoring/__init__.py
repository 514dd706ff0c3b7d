"""Monitoring: how the world and the model change after release."""
