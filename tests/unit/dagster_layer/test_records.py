"""What one asset hands to the next: a run that goes on from another reads that one's records, not somebody else's."""

import json
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from resources.platform_home import PlatformHome
from resources.records import RecordIOManager


@dataclass(frozen=True, kw_only=True)
class Note:
    words: str


class Wording(dg.Config):
    words: str = "of the first run"


@dg.asset(key=["relay", "written"], io_manager_key="io_manager")
def written(config: Wording) -> Note:
    return Note(words=config.words)


@dg.asset(key=["relay", "heard"], ins={"note": dg.AssetIn(["relay", "written"])}, io_manager_key="io_manager")
def heard(context: dg.AssetExecutionContext, platform: PlatformHome, note: Note) -> Note:
    if (platform.settings.home / "deaf").exists():
        raise dg.Failure("It does not hear.")
    return Note(words=f"heard: {note.words}")


def relay() -> dg.JobDefinition:
    platform = PlatformHome()
    return dg.Definitions(
        assets=[written, heard],
        jobs=[dg.define_asset_job("relay", selection="*")],
        resources={"platform": platform, "io_manager": RecordIOManager(platform=platform)},
        executor=dg.in_process_executor,
    ).resolve_job_def("relay")


def test_a_run_that_is_repeated_from_its_failure_goes_on_with_its_own_records_though_another_ran_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    job = dg.reconstructable(relay)
    (tmp_path / "deaf").touch()
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        failed = dg.execute_job(job, instance=instance)
        other = {"ops": {"relay__written": {"config": {"words": "of another run"}}}}
        assert not failed.success
        assert not dg.execute_job(job, instance=instance, run_config=other).success
        # It fails once more, so that the one that works goes on from a run that went on itself.
        again = dg.execute_job(
            job,
            instance=instance,
            reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, instance),
        )
        assert not again.success
        (tmp_path / "deaf").unlink()
        done = dg.execute_job(
            job,
            instance=instance,
            reexecution_options=dg.ReexecutionOptions.from_failure(again.run_id, instance),
        )
        assert done.success
    assert json.loads((tmp_path / "records" / "relay" / "heard.json").read_bytes()) == {
        "words": "heard: of the first run"
    }
