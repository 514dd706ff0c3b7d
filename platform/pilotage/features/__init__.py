"""Features: one definition of row and as-of features, for training and for serving.

``view.py`` is the way in: a ``FeatureView`` computes features offline (``build.py`` does it for days of the lake) and
online (from the store that ``online.py`` writes and ``store.py`` reads).
"""
