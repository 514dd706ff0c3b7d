"""What a check said last."""

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord


def last_result(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> "tuple[AssetCheckExecutionRecord, dg.AssetCheckEvaluation] | None":
    """The newest result of a check; ``None`` if there was none yet.

    While a run is to evaluate a check, and ever after if that run died, Dagster's latest evaluation is this plan, which
    has no result: what the check said before holds until then.
    """
    summary = instance.event_log_storage.get_asset_check_summary_records([key])[key]
    record = summary.last_completed_check_execution_record
    evaluation = record.evaluation if record is not None else None
    return None if record is None or evaluation is None else (record, evaluation)
