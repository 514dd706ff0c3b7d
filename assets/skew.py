"""Is what was served what training would have computed? A sample of logged predictions, computed again."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from assets.lineage import model_asset, model_key
from assets.metadata import Materialized, table
from pilotage.errors import ConfigError
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.monitoring.skew import SkewReport

FEATURES, PROBABILITIES = "no_skew", "same_probabilities"


class SkewSample(dg.Config):
    """Which logged predictions are computed again."""

    sample: int = Field(default=200, description="How many, 1 to 100,000; all, if there are fewer.")
    days: float = Field(default=7.0, description="Of the last so many days, up to 36,525.")
    seed: int = Field(default=0, description="The same seed draws the same sample of the same log.")

    def require_sense(self) -> None:
        """Bounds of pydantic's own are told in its words, in the middle of a stack trace.

        Raises:
            ConfigError: A number is out of its range.
        """
        for name, value, most in (("sample", self.sample, 100_000), ("days", self.days, 36_525)):
            if not 0 < value <= most:
                raise ConfigError(
                    f"{name} is {value:g}.",
                    fix=f"Fill in more than 0, and {most:,} at most, in the launchpad.",
                    field=name,
                )


def skew_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The skew check of one model."""
    key = model_key(spec.name, "serving_skew")

    @model_asset(
        spec,
        "serving_skew",
        kinds={"polars"},
        description=(
            "The features of a sample of logged predictions, computed again from the lake as it was, and compared bit "
            "by bit with what was served; with how stale the state was."
        ),
        deps=[model_key(spec.name, "predictions")],
        check_specs=[
            dg.AssetCheckSpec(
                FEATURES, asset=key, description="Every feature that was served is what the lake gives, bit by bit."
            ),
            dg.AssetCheckSpec(
                PROBABILITIES,
                asset=key,
                description="The same features give the same probability in the bundle, and that the same decision.",
            ),
        ],
    )
    def serving_skew(context: dg.AssetExecutionContext, platform: PlatformHome, config: SkewSample) -> Materialized:
        from pilotage.monitoring.skew import check_skew

        config.require_sense()
        report = check_skew(
            spec,
            settings=platform.settings,
            lake=platform.lake,
            sample=config.sample,
            seed=config.seed,
            since=datetime.now(UTC) - timedelta(days=config.days),
        )
        if report.skewed:
            context.log.error(f"Skewed: {', '.join(report.skewed)}.")
        return dg.MaterializeResult(
            metadata=_metadata(report), check_results=[features_check(report), probabilities_check(report)]
        )

    return [serving_skew]


def features_check(report: "SkewReport") -> dg.AssetCheckResult:
    """An error that names the features; a warning if there was something to compare and nothing could be."""
    blind = report.sampled > 0 and report.compared == 0
    if report.skewed:
        said = f"Served differently from what the lake gives: {', '.join(report.skewed)}."
    elif blind:
        said = f"Nothing could be compared: {'; '.join(report.not_comparable)}."
    elif not report.sampled:
        said = "No version has answered in this time: there is nothing to compare."
    else:
        said = f"{report.compared:,} values of {report.sampled} predictions are the same, bit by bit."
    return dg.AssetCheckResult(
        check_name=FEATURES,
        passed=not report.skewed and not blind,
        severity=dg.AssetCheckSeverity.WARN if blind else dg.AssetCheckSeverity.ERROR,
        description=said,
        metadata={
            "skewed": len(report.skewed),
            "skewed_features": ", ".join(report.skewed) or "none",
            "examples": table(
                {
                    "prediction_id": each.prediction_id,
                    "version": each.version,
                    "feature": each.feature,
                    # As text with every digit: a difference can be in the last one.
                    "served": repr(each.served),
                    "recomputed": repr(each.recomputed),
                }
                for each in report.differences
            ),
            "what_to_do": "docs/runbooks/skew.md",
        },
    )


def probabilities_check(report: "SkewReport") -> dg.AssetCheckResult:
    """An error that names predictions, by their probability or by what was decided on it."""
    wrong, otherwise = report.other_probabilities, report.other_decisions
    said = [
        f"{len(wrong)} of {report.probabilities} predictions had the right features and another probability: "
        f"{', '.join(wrong[:5])}."
        if wrong
        else f"{report.probabilities} probabilities are the same."
    ]
    if otherwise:
        said.append(
            f"{len(otherwise)} were decided otherwise than by the threshold and the band of their version: "
            f"{', '.join(otherwise[:5])}."
        )
    return dg.AssetCheckResult(
        check_name=PROBABILITIES,
        passed=not wrong and not otherwise,
        severity=dg.AssetCheckSeverity.ERROR,
        description=" ".join(said),
        metadata={
            "compared": report.probabilities,
            "different": len(wrong),
            "decided_otherwise": len(otherwise),
            "what_to_do": "docs/runbooks/skew.md",
        },
    )


def _metadata(report: "SkewReport") -> dict[str, Any]:
    stale = report.staleness
    told: dict[str, Any] = {
        "predictions": report.predictions,
        "sampled": report.sampled,
        "values_compared": report.compared,
        "skewed_features": len(report.skewed),
        "not_comparable": sum(each.not_comparable for each in report.features),
        "versions": {str(version): rows for version, rows in report.versions.items()},
        "features": table(
            {
                "feature": each.feature,
                "compared": each.compared,
                "different": each.different,
                "not_comparable": each.not_comparable,
            }
            for each in sorted(report.features, key=lambda each: (-each.different, -each.not_comparable))
        ),
        "why_not_comparable": table({"why": why, "predictions": n} for why, n in report.not_comparable.items()),
    }
    if stale is not None:
        told |= {
            "state_lag_median_s": round(stale.median_s, 1),
            "state_lag_p95_s": round(stale.p95_s, 1),
            "state_lag_largest_s": round(stale.largest_s, 1),
        }
    return told
