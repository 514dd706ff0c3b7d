"""Replaying history: the same year once more, to see what the platform, or another way of running a model, makes of it.

Two forms that decide alike. Engine-only (``season.py``): predictions, outcomes and nights in one process, for comparing
policies. The real one (``drive.py``): files land, requests go to the running service, the platform reacts. Neither
holds a rule of the platform's own: they call the ones that serve, monitor, train and release.
"""
