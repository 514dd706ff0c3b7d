"""One file a model, each with a ``MODEL``. No Dagster here: the prediction service reads these files too."""
