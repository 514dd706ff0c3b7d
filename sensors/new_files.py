"""New files → runs that ingest them and bring features and online state up to date."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import dagster as dg

from assets.tags import ATTEMPT, CAUSE, LANDING
from jobs.catalogue import Job
from pilotage.data.ingested import LandedFile
from pilotage.data.source import Files, SourceSpec
from pilotage.spec import Latest, ModelSpec
from resources.platform_home import PlatformHome
from sensors.landings import MAX_ATTEMPTS, Landing, Memory, daily_landings, table_landing

RANGE_FIRST, RANGE_LAST = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def new_files_sensor(
    sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec], jobs: Sequence[Job]
) -> dg.SensorDefinition:
    """Watches the landing folders of every source of files."""
    watched = {name: spec for name, spec in sources.items() if isinstance(spec.read, Files)}
    reach = _reach(models)

    @dg.sensor(
        name="new_files",
        jobs=[job for job in jobs if job.name in ("new_data", "ingest_tables")],
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Asks for a run for every range of days with new or corrected files, and for one when a reference table "
            f"has a new file. A run that fails is asked for again, {MAX_ATTEMPTS} times in all."
        ),
    )
    def new_files(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult | dg.SkipReason:
        from pilotage.data.pending import pending

        settings, lake = platform.settings, platform.lake
        memory = Memory.read(context.cursor)
        requests = list(_again(context, memory))
        found: dict[str, list[LandedFile]] = {
            name: files
            for name, spec in watched.items()
            if (files := pending(spec, settings=settings, lake=lake, seen=memory.seen.get(name, {})))
        }
        held = [lake.days(f"raw/{name}") for name in found if watched[name].daily and lake.exists(f"raw/{name}")]
        newest = max((days[-1] for days in held if days), default=None)
        landings = daily_landings(
            {name: files for name, files in found.items() if watched[name].daily}, newest=newest, reach=reach
        )
        tables = table_landing({name: files for name, files in found.items() if not watched[name].daily})
        for landing in [*([tables] if tables else []), *landings]:
            memory.open[landing.key] = landing
            requests.append(_request(landing))
        for name, files in found.items():
            memory.take(name, files)
        if not requests:
            waiting = f" {len(memory.open)} landings are being worked on." if memory.open else ""
            return dg.SensorResult(
                skip_reason=dg.SkipReason(f"No new or changed file in {settings.landing}.{waiting}"),
                cursor=memory.write(),
            )
        return dg.SensorResult(run_requests=requests, cursor=memory.write())

    return new_files


def _again(context: dg.SensorEvaluationContext, memory: Memory) -> Iterator[dg.RunRequest]:
    """Forgets landings whose run succeeded, and asks again for those whose run failed."""
    for key, landing in list(memory.open.items()):
        runs = context.instance.get_runs(dg.RunsFilter(tags={LANDING: key}), limit=1)
        if not runs:
            continue
        status = runs[0].status
        if status is dg.DagsterRunStatus.SUCCESS:
            del memory.open[key]
        elif status in FAILED and int(runs[0].tags.get(ATTEMPT, "1")) == landing.attempt:
            if landing.attempt >= MAX_ATTEMPTS:
                context.log.error(
                    f"Gave up on {landing.files} files ({landing.first} … {landing.last}) after {MAX_ATTEMPTS} failed "
                    f"runs; see run {runs[0].run_id}. Correct the cause and touch the files."
                )
                del memory.open[key]
            else:
                memory.open[key] = replace(landing, attempt=landing.attempt + 1)
                yield _request(memory.open[key])


def _request(landing: Landing) -> dg.RunRequest:
    tags = {CAUSE: "new_data", LANDING: landing.key, ATTEMPT: str(landing.attempt)}
    run_key = f"{landing.key}-{landing.attempt}"
    if landing.first is None or landing.last is None:
        return dg.RunRequest(run_key=run_key, job_name="ingest_tables", tags=tags)
    return dg.RunRequest(
        run_key=run_key,
        job_name="new_data",
        tags=tags | {RANGE_FIRST: landing.first, RANGE_LAST: landing.last},
    )


def _reach(models: Mapping[str, ModelSpec]) -> timedelta:
    """How far back the features of any model look."""
    spans = [
        (item.max_age or timedelta(0)) if isinstance(item, Latest) else item.over
        for spec in models.values()
        for item in spec.asof
    ]
    return timedelta(days=max((span // timedelta(days=1) + 1 for span in spans), default=0))
