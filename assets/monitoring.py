"""A ModelSpec → its drift report: what the newest window is beside what the champion learned from."""

from datetime import date

import dagster as dg
from pydantic import Field

from assets.drift import (
    EXPECTED,
    INCIDENT,
    INPUTS,
    NO_CHAMPION,
    TRUTH,
    drift_checks,
    drift_metadata,
    drift_page,
    tell_drift,
    unjudged_checks,
)
from assets.lineage import model_asset, model_key
from assets.metadata import Materialized
from pilotage.errors import ConfigError
from pilotage.spec import Drift, ModelSpec
from resources.platform_home import PlatformHome


class DriftWindow(dg.Config):
    """Which window is looked at, and what is made of it."""

    last: str | None = Field(default=None, description="Last day of the window, ISO; empty for the newest with rows.")
    report: bool = Field(default=True, description="Whether Evidently draws the page; it takes about ten seconds.")

    def day(self) -> date | None:
        """The last day.

        Raises:
            ConfigError: It is none.
        """
        try:
            return date.fromisoformat(self.last) if self.last else None
        except ValueError:
            raise ConfigError(
                f"last is {self.last!r}, which is no day.",
                fix="Fill in one such as 2013-07-10 in the launchpad, or leave it empty for the newest.",
                field="last",
            ) from None


def monitoring_assets(spec: ModelSpec) -> list[dg.AssetsDefinition]:
    """The drift report of a model that declares ``drift``."""
    return [] if spec.drift is None else [_drift_report(spec, spec.drift)]


def _drift_report(spec: ModelSpec, drift: Drift) -> dg.AssetsDefinition:
    key = model_key(spec.name, "drift_report")
    rate = f"at most {drift.false_alarms_a_year:g} false alarms a year"

    @model_asset(
        spec,
        "drift_report",
        kinds={"polars", "lightgbm"},
        description=(
            f"The newest {drift.days} days, as they were served or else as the features have them, beside what the "
            "champion learned from: effect sizes of every column with the thresholds that its own past gave "
            f"({rate}), the columns together, what it means for performance, and Evidently's report for a person."
        ),
        deps=[model_key(spec.name, "features"), model_key(spec.name, "registered_version")],
        check_specs=[
            dg.AssetCheckSpec(
                INPUTS, asset=key, description=f"No feature, and not all together, moved beyond its past; {rate}."
            ),
            dg.AssetCheckSpec(
                TRUTH, asset=key, description="Predictions and labels are as they were in the reference."
            ),
            dg.AssetCheckSpec(
                INCIDENT, asset=key, description="No day of the window is unlike all of the weeks before it."
            ),
            dg.AssetCheckSpec(
                EXPECTED,
                asset=key,
                description="While an alarm is open, the model should do no worse by its own probabilities.",
            ),
        ],
    )
    def drift_report(context: dg.AssetExecutionContext, platform: PlatformHome, config: DriftWindow) -> Materialized:
        from pilotage.monitoring.drift import watch
        from pilotage.release.champions import champion

        settings = platform.settings
        if champion(spec.name, settings=settings) is None:
            # A rule may answer for weeks before the first version is released; that is no failure of a night.
            context.log.info(NO_CHAMPION)
            return dg.MaterializeResult(metadata={"why": NO_CHAMPION}, check_results=unjudged_checks())
        report = watch(
            spec,
            settings=settings,
            lake=platform.lake,
            last=config.day(),
            progress=context.log.info,
        )
        verdict = report.verdict
        (context.log.warning if verdict.alarm or verdict.incident else context.log.info)(verdict.why)
        told = drift_metadata(report)
        if config.report:
            told |= drift_page(context, spec, settings, report)
        tell_drift(context, platform, spec, verdict, report.state)
        checks = drift_checks(verdict, since=report.state.alarm_since)
        return dg.MaterializeResult(metadata=told, check_results=checks)

    return drift_report
