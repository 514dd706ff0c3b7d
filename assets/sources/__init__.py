"""One file a dataset, each with a ``SOURCE``. No Dagster here: a source is a declaration."""
