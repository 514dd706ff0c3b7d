"""Release: bundles, the MLflow registry, the ledger, promotion."""
