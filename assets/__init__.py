"""The Dagster assets: what exists, and what it is made from. How it is made is the engine's business."""
