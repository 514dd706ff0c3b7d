"""The IO manager: what one asset hands to the next is a small frozen record, kept as JSON. Never a pickle.

Data itself does not pass through here: tables are in the lake, models are bundles on disk, and a record says where.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from pilotage.errors import UnpublishedData
from resources.platform_home import PlatformHome


class RecordIOManager(dg.ConfigurableIOManager):
    """Writes a dataclass as ``<home>/records/<asset key>.json`` and reads it back as the type that asks for it."""

    platform: dg.ResourceDependency[PlatformHome]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        import msgspec

        path = self._path(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_suffix(f".{context.run_id}.tmp")
        written = msgspec.json.format(msgspec.json.encode(obj))
        staged.write_bytes(written)
        staged.replace(path)
        # A run reads what it wrote itself, or the run that it goes on from, whoever writes beside it: see load_input.
        own = self._own(context.asset_key, context.run_id)
        own.parent.mkdir(parents=True, exist_ok=True)
        staged_own = own.with_suffix(".tmp")
        staged_own.write_bytes(written)
        staged_own.replace(own)
        context.add_output_metadata({"record": dg.MetadataValue.path(str(path))})

    def load_input(self, context: dg.InputContext) -> Any:
        import msgspec

        own = (self._own(context.asset_key, run) for run in _lineage(context))
        path = next((copy for copy in own if copy.exists()), self._path(context))
        if not path.exists():
            name = context.asset_key.to_user_string()
            raise UnpublishedData(f"{name} has never been materialized.", fix=f"Materialize {name} first.", asset=name)
        return msgspec.json.decode(path.read_bytes(), type=context.dagster_type.typing_type)

    def _own(self, key: dg.AssetKey, run_id: str) -> Path:
        """A run's own copy, in its workspace: a run that lost its lease and lives on writes over nobody's record."""
        model, *steps = key.path
        return self.platform.settings.candidates / model / run_id / "records" / f"{'__'.join(steps) or model}.json"

    def _path(self, context: dg.InputContext | dg.OutputContext) -> Path:
        *folders, name = context.asset_key.path
        return self.platform.settings.records.joinpath(*folders, f"{name}.json")


def _lineage(context: dg.InputContext) -> Iterator[str]:
    """The run, and those that it goes on from (*Re-execute from failure*, a retry after a crash), the newest first."""
    step = context.step_context
    run: dg.DagsterRun | None = step.dagster_run
    while run is not None:
        yield run.run_id
        run = step.instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
