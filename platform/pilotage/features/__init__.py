"""Features: one definition of row and as-of features, for training and for serving."""
