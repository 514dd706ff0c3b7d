"""Training: splits, fit, tuning, calibration, evaluation, the gate. Knows neither MLflow nor Dagster."""
