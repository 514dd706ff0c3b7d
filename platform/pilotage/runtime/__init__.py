"""Runtime: what a serving process needs and nothing more. Never imports mlflow, dagster, sklearn or pandas."""
