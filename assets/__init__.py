"""The Dagster assets: what exists, and what it is made from. How it is made is the engine's business."""

import warnings

# Single-run backfills are what make a year of days affordable. Dagster calls them beta, once for every asset in every
# process; its version is pinned, and the tests run them.
warnings.filterwarnings("ignore", "Parameter `(backfill_policy|allow_nonexistent_upstream_partitions)` of .* in beta")
