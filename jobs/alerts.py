"""The job that tells people of alarms."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.alerts import KEY
from jobs.decisions import PRIORITY, URGENT
from pilotage.run_tags import DECISION

if TYPE_CHECKING:
    from jobs.catalogue import Job

DELIVER = "deliver_alerts"


def alerts_job() -> "Job":
    """Tells what is due, and brings the table of alarms in the UI up to date."""
    return dg.define_asset_job(
        DELIVER,
        selection=dg.AssetSelection.assets(KEY),
        description=(
            "Tells the receivers of alarms what they have still to be told, and shows what is open. A sensor launches "
            "it; to launch it by hand tells at once."
        ),
        tags={DECISION: DELIVER, PRIORITY: URGENT},
    )
