"""The ledger as an asset: each run verifies it and notes its head in Dagster, outside the ledger's own database."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import Materialized
from pilotage.errors import ConfigError
from resources.failures import plainly
from resources.platform_home import PlatformHome

if TYPE_CHECKING:
    from pilotage.release.audit import Fault, Known

KEY = dg.AssetKey(["ledger"])
NOTED = "head"
"""Metadata of a materialization: ``NUMBER:HASH`` of the last event then."""

_COMPARED = 100
"""Earlier notes that the ledger must still hold; at one an hour, four days. Each holds those before it, by its hash."""


def ledger_asset() -> dg.AssetsDefinition:
    """The ledger of decisions."""

    @dg.asset(
        key=KEY,
        group_name="governance",
        owners=["team:platform"],
        kinds={"sql"},
        description=(
            "The ledger of decisions: every registration, approval, promotion, rollback and kill, chained by hashes. A "
            "run verifies it, compares it with the heads that earlier runs noted, and notes its head."
        ),
        output_required=False,
        check_specs=[
            dg.AssetCheckSpec(
                "verifies",
                asset=KEY,
                description="Nothing was edited, removed, reordered or cut off, by its hashes and by earlier notes.",
            )
        ],
    )
    @plainly
    def ledger(
        context: dg.AssetExecutionContext, platform: PlatformHome
    ) -> Iterator[Materialized | dg.AssetCheckResult]:
        from pilotage.release.audit import audit

        known = noted_heads(context.instance)
        found = audit(platform.settings, known=known)
        result = dg.AssetCheckResult(
            check_name="verifies",
            asset_key=KEY,
            passed=not found.faults,
            severity=dg.AssetCheckSeverity.ERROR,
            description=_said(found.faults),
            metadata={
                "events": found.events,
                "keyed": found.keyed,
                "faults": len(found.faults),
                "compared_with": len(known),
                "what_to_do": "docs/runbooks/ledger-does-not-verify.md",
            },
        )
        if found.faults:
            # Not noted: the notes of before are the evidence.
            context.log.error(result.description or "")
            yield result
            return
        metadata: dict[str, Any] = {
            "events": found.events,
            "keyed": found.keyed,
            "notes": "; ".join(found.notes) or "none",
        }
        if found.head:
            metadata |= {NOTED: f"{found.head}:{found.head_hash}", "head_at": found.head_at}
        yield dg.MaterializeResult(asset_key=KEY, metadata=metadata, check_results=[result])

    return ledger


def heads_noted_in(folder: Path) -> list["Known"]:
    """What earlier runs of an installation noted; ``folder`` is its ``DAGSTER_HOME``."""
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        return noted_heads(instance)


def noted_heads(instance: dg.DagsterInstance) -> list["Known"]:
    """What earlier runs noted, each head once."""
    from pilotage.release.audit import Known

    heads = {}
    for record in instance.fetch_materializations(KEY, limit=_COMPARED).records:
        materialization = record.asset_materialization
        text = materialization.metadata.get(NOTED) if materialization else None
        if text is not None:
            try:
                heads[str(text.value)] = Known.parse(str(text.value))
            except ConfigError as error:
                raise ConfigError(
                    f"Run {record.run_id} noted {text.value!r}, which is no head of the ledger.",
                    fix="Look at who wrote into Dagster's storage; see docs/runbooks/ledger-does-not-verify.md.",
                ) from error
    return list(heads.values())


def _said(faults: Sequence["Fault"]) -> str:
    if not faults:
        return "The ledger verifies."
    first = "; ".join(
        f"event {each.sequence if each.sequence is not None else '?'}, {each.kind}: {each.detail}"
        for each in faults[:3]
    )
    return f"The ledger does not verify. {first}" + (f" … and {len(faults) - 3} more." if len(faults) > 3 else "")
