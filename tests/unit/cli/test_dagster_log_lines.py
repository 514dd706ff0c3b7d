"""Characterises `dagster job execute` of the pinned version: the command line reads its log lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.cli.runs import RunTranscript, days

CODE = """
import warnings; warnings.simplefilter("ignore")
import dagster as dg
from resources.failures import plainly

@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2013-01-01"), backfill_policy=dg.BackfillPolicy.single_run())
DECORATED
def features(context):
    context.log.info(f"{len(context.partition_keys)} days")
    raise RAISED

defs = dg.Definitions(
    assets=[features],
    jobs=[dg.define_asset_job("features_it", selection=["features"], executor_def=dg.in_process_executor)],
)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decorated", "raised", "said"),
    [
        ("", 'ValueError("Seven is odd.")', "ValueError: Seven is odd."),
        (
            "@plainly",
            '__import__("pilotage.errors").errors.DataError("Seven is odd.", fix="Take eight.")',
            "DataError: Seven is odd. Fix: Take eight.",
        ),
        ("@plainly", 'dg.Failure("Seven is odd. Fix: Take eight.")', "Seven is odd. Fix: Take eight."),
    ],
)
def test_a_failing_job_over_a_range_of_days_is_heard_as_we_read_it(
    tmp_path: Path, decorated: str, raised: str, said: str
) -> None:
    (tmp_path / "code.py").write_text(CODE.replace("DECORATED", decorated).replace("RAISED", raised))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute", "-f", str(tmp_path / "code.py")]
    command += ["-j", "features_it", "--tags", json.dumps(days("2013-01-01", "2013-01-09"))]
    done = subprocess.run(
        command,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    heard: list[str] = []
    transcript = RunTranscript(heard.append)
    for line in done.stdout.splitlines(keepends=True):
        transcript.feed(line)
    assert done.returncode == 1
    assert heard == ["features", "9 days"]
    assert len(transcript.run_id) == 36
    assert transcript.failed_step == "features", done.stdout
    assert transcript.error == said
