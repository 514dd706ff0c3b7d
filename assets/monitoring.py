"""A ModelSpec → what watches it after release: for now, how far today's features are from those it learned on."""

from datetime import timedelta

import dagster as dg

from assets.lineage import model_asset, model_key
from assets.metadata import table
from pilotage.spec import Drift, ModelSpec
from resources.platform_home import PlatformHome


def monitoring_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The drift report of a model that declares ``drift``."""
    return [] if spec.drift is None else [_drift_report(spec, spec.drift)]


def _drift_report(spec: ModelSpec, drift: Drift) -> dg.AssetsDefinition:
    key = model_key(spec.name, "drift_report")

    @model_asset(
        spec,
        "drift_report",
        kinds={"polars"},
        description=(
            f"Features of the newest {drift.window.days} days beside the champion's reference sample: PSI from fixed "
            "reference bins, null rates, and Evidently's report for a person to read."
        ),
        deps=[model_key(spec.name, "features"), model_key(spec.name, "registered_version")],
        check_specs=[
            dg.AssetCheckSpec(
                "stable_inputs",
                asset=key,
                description=f"No feature has a population stability index of {drift.alert_psi} or more.",
            )
        ],
    )
    def drift_report(platform: PlatformHome) -> dg.MaterializeResult:
        from pilotage.monitoring.drift import drift_report as compare
        from pilotage.release.champions import champion_reference

        settings, lake = platform.settings, platform.lake
        version, reference = champion_reference(spec.name, settings=settings)
        days = lake.days(f"features/{spec.name}")
        last = days[-1]
        first = max(days[0], last - drift.window + timedelta(days=1))
        current = lake.scan(f"features/{spec.name}", first=first, last=last).collect()
        report = compare(spec, current=current, reference=reference, reports=settings.reports)
        return dg.MaterializeResult(
            metadata={
                "champion": version,
                "window": f"{first} … {last}",
                "rows": report.rows,
                "reference_rows": report.reference_rows,
                "largest_psi": max(item.psi for item in report.features),
                "drifted": ", ".join(report.drifted) or "none",
                "features": table(
                    {
                        "feature": item.feature,
                        "psi": round(item.psi, 4),
                        "null_rate": round(item.null_rate, 4),
                        "reference_null_rate": round(item.reference_null_rate, 4),
                        "drifted": item.drifted,
                    }
                    for item in sorted(report.features, key=lambda item: -item.psi)
                ),
                "report": dg.MetadataValue.url(f"{settings.reports_ui}/{spec.name}/drift.html"),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="stable_inputs",
                    passed=not report.drifted,
                    # A drifted input is a reason to look, never a reason to promote or to stop.
                    severity=dg.AssetCheckSeverity.WARN,
                    description=f"Drifted: {', '.join(report.drifted)}." if report.drifted else "No feature drifted.",
                    metadata={"threshold_psi": drift.alert_psi, "drifted": len(report.drifted)},
                )
            ],
        )

    return drift_report
