"""Whether groups are treated alike: rates by protected column, continuously. What is fair is declared in the spec."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.alarms import JUDGED, tell
from assets.evaluation import fairness_tables
from assets.ingestion import validated_key
from assets.lineage import model_asset, model_key
from assets.metadata import Materialized
from pilotage.spec import ModelSpec
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.training.records import FairnessReport

CHECK = "alike"


def fairness_asset(spec: ModelSpec) -> dg.AssetsDefinition:
    """The fairness of one model that names protected columns."""
    key = model_key(spec.name, "fairness")
    limit, window = spec.fairness.max_difference, spec.fairness.window

    @model_asset(
        spec,
        "fairness",
        kinds={"polars"},
        description=(
            f"Rates of selection, true positives, false positives and referral by {', '.join(spec.protected)}, over "
            f"the answers of the last {window.days} days. Groups come from `validated/{spec.source}`, never a request."
        ),
        deps=[model_key(spec.name, "label_quality"), validated_key(spec.source)],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK, asset=key, description=f"No two groups differ by more than {limit:.0%}, as far as chance goes."
            )
        ],
        pool=f"monitoring_{spec.name}",
    )
    def fairness(context: dg.AssetExecutionContext, platform: PlatformHome) -> Materialized:
        from pilotage.monitoring.answers import data_clock, read_answers
        from pilotage.monitoring.fairness import fairness as measure
        from pilotage.monitoring.fairness import with_groups

        settings, lake = platform.settings, platform.lake
        now = data_clock(spec, settings=settings, lake=lake)
        last = now.date() + timedelta(days=1)
        answers = read_answers(
            spec, settings=settings, lake=lake, first=last - window, last=last, known_by=now, reasons=False
        )
        report = measure(with_groups(answers, spec, settings=settings, lake=lake), spec)
        return dg.MaterializeResult(
            metadata={
                "answers": report.answers,
                "labelled": report.labelled,
                "without_group": report.without_group,
                "unfair": len(report.unfair),
                **{f"{gap.column}_{gap.rate}_difference": gap.value.value for gap in report.differences},
                **fairness_tables(report),
            },
            check_results=tell(context, platform, spec, [alike_check(report)], {CHECK: "fairness"}),
        )

    return fairness


def alike_check(report: "FairnessReport") -> dg.AssetCheckResult:
    """Warns of differences beyond the limit that chance does not explain."""
    if report.unfair:
        said = "; ".join(map(str, report.unfair))
    elif not report.differences:
        said = "No two groups are large enough to be compared: nothing was judged."
    else:
        said = f"{len(report.differences)} differences are within the limit, as far as chance goes."
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not report.unfair,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
        metadata={
            JUDGED: bool(report.differences),
            "unfair": len(report.unfair),
            "compared": len(report.differences),
            "what_to_do": "docs/how-to/read-performance.md",
        },
    )
