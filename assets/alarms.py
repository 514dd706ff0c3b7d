"""What a check found, told to people: an alert for a check that fails, and its end for one that passes."""

from collections.abc import Mapping, Sequence

import dagster as dg

from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

JUDGED = "judged"
"""Metadata of a check: whether there was anything to judge. What was not judged ends no alarm."""
VERSION = "version"
"""Metadata of a check: the champion that it is about."""


def tell(
    context: dg.AssetExecutionContext,
    platform: PlatformHome,
    spec: ModelSpec,
    results: Sequence[dg.AssetCheckResult],
    kinds: Mapping[str, str],
) -> list[dg.AssetCheckResult]:
    """Raises an alert for each check that failed, clears those that passed, and gives the results back.

    Args:
        context: Says which run it was.
        platform: Where the book of alarms is.
        spec: The model.
        results: Of its checks; those that were not ``JUDGED`` change nothing.
        kinds: Check → kind of alert.
    """
    from pilotage.monitoring.alerts import Alert, AlertBook

    settings = platform.settings
    with AlertBook.of(settings) as book:
        for result in results:
            check = str(result.check_name)
            metadata = {key: getattr(value, "value", value) for key, value in result.metadata.items()}
            if not metadata.get(JUDGED, True):
                continue
            if result.passed:
                book.clear(kinds[check], spec.name, check)
            else:
                book.raise_(
                    Alert.of(
                        kinds[check],
                        result.description or f"The check {check} failed.",
                        model=spec.name,
                        subject=check,
                        evidence={
                            key: value for key, value in metadata.items() if isinstance(value, int | float | str)
                        },
                        run_url=f"{settings.dagster_ui}/runs/{context.run.run_id}",
                    )
                )
    return list(results)
