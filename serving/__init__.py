"""The prediction service: HTTP in, a call of the engine, HTTP out. Knows no Dagster."""
