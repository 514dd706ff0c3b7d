"""New files → runs that ingest them and bring features and online state up to date."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from assets.ingestion import quarantine_key, raw_key, validated_key
from assets.lineage import model_key
from jobs.catalogue import data_steps
from pilotage.data.ingested import LandedFile
from pilotage.data.source import Daily, Files, SourceSpec
from pilotage.run_tags import ATTEMPT, CAUSE, LANDING, RANGE_FIRST, RANGE_LAST
from pilotage.spec import Latest, ModelSpec
from resources.platform_home import PlatformHome
from sensors.landings import MAX_ATTEMPTS, Landing, Memory, daily_landings, table_landing

if TYPE_CHECKING:
    from pilotage.data.lake import Lake

FAILED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def new_files_sensor(sources: Mapping[str, SourceSpec], models: Mapping[str, ModelSpec]) -> dg.SensorDefinition:
    """Watches the landing folders of every source of files."""
    watched = {name: spec for name, spec in sources.items() if isinstance(spec.read, Files)}

    def selection(landing: Landing, lake: "Lake") -> list[dg.AssetKey]:
        """The sources of a landing, and what they change in the models that read them.

        Days change features and online state of every model on the same calendar. A table changes online state, where
        there is one; features of days that are past stay as they were made.
        """
        keys = [key(name) for name in landing.sources for key in (raw_key, validated_key, quarantine_key)]
        changed = [spec for spec in models.values() if set(spec.sources) & set(landing.sources)]
        if landing.first is None:
            return keys + [
                model_key(spec.name, "online_state")
                for spec in changed
                if spec.asof and all(lake.exists(f"validated/{name}") for name in spec.sources)
            ]
        calendar = sources[landing.sources[0]].daily
        return keys + [
            model_key(spec.name, step)
            for spec in changed
            if _same_calendar(sources[spec.source].daily, calendar)
            for step in data_steps(spec)
        ]

    def request(landing: Landing, lake: "Lake") -> dg.RunRequest:
        tags = {CAUSE: "new_data", LANDING: landing.key, ATTEMPT: str(landing.attempt)}
        if landing.first is not None and landing.last is not None:
            tags |= {RANGE_FIRST: landing.first, RANGE_LAST: landing.last}
        run_key = f"{landing.key}-{landing.attempt}"
        return dg.RunRequest(run_key=run_key, asset_selection=selection(landing, lake), tags=tags)

    @dg.sensor(
        name="new_files",
        asset_selection=dg.AssetSelection.assets(
            *(key(name) for name in watched for key in (raw_key, validated_key, quarantine_key)),
            *(model_key(spec.name, step) for spec in models.values() for step in data_steps(spec)),
        ),
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Asks for a run for every range of days with new or corrected files, and for one when a reference table "
            f"has a new file. A run that fails is asked for again, {MAX_ATTEMPTS} times in all, or if it is deleted."
        ),
    )
    def new_files(context: dg.SensorEvaluationContext, platform: PlatformHome) -> dg.SensorResult:
        from assets.delivery import misnamed
        from pilotage.data.ingest import landed, unmatched
        from pilotage.data.pending import pending

        settings, lake = platform.settings, platform.lake
        memory = Memory.read(context.cursor)
        for key in memory.forget(watched.keys()):
            context.log.warning(f"Landing {key} is left alone: its sources are not declared any more.")
        for name in watched:
            if memory.went_back(name, _version(lake, f"raw/{name}")):
                context.log.warning(f"raw/{name} is older than it was: its files are compared with what it holds.")
        requests = [request(landing, lake) for landing in _again(context, memory)]
        there = {name: landed(spec, settings) for name, spec in watched.items()}
        found: dict[str, list[LandedFile]] = {
            name: files
            for name, spec in watched.items()
            if (files := pending(spec, there[name], lake=lake, seen=memory.seen.get(name, {})))
        }
        landings = [item for group in _calendars(watched, found) for item in _of_days(group, lake, memory, models)]
        tables = table_landing({name: files for name, files in found.items() if not watched[name].daily})
        for landing in (_taken_up(context, item) for item in [*([tables] if tables else []), *landings]):
            memory.open[landing.key] = landing
            requests.append(request(landing, lake))
        # Those that others ingested too: a correction that keeps an old modification time differs from what was there.
        for name, files in there.items():
            memory.take(name, files)
        misfits = {name: odd for name, spec in watched.items() if (odd := unmatched(spec, settings))}
        names = {name: [file.name for file in files] for name, files in misfits.items()}
        told = [misnamed(name, files) for name, files in misfits.items() if names[name] != memory.misnamed.get(name)]
        memory.misnamed = names
        if not requests:
            waiting = f" {len(memory.open)} landings are being worked on." if memory.open else ""
            unknown = "".join(f" {file.name}: {file.reason}." for files in misfits.values() for file in files[:3])
            return dg.SensorResult(
                skip_reason=dg.SkipReason(f"No new or changed file in {settings.landing}.{waiting}{unknown}"),
                cursor=memory.write(),
                asset_events=told,
            )
        return dg.SensorResult(run_requests=requests, cursor=memory.write(), asset_events=told)

    return new_files


def _version(lake: "Lake", table: str) -> int:
    from pilotage.errors import UnpublishedData

    try:
        return lake.version(table)
    except UnpublishedData:
        return -1


def _calendars(
    watched: Mapping[str, SourceSpec], found: Mapping[str, list[LandedFile]]
) -> list[dict[str, list[LandedFile]]]:
    """The pending files of daily sources, by calendar: one run has one set of days."""
    groups: dict[tuple[date, date | None], dict[str, list[LandedFile]]] = {}
    for name, files in found.items():
        if (daily := watched[name].daily) is not None:
            groups.setdefault((daily.first, daily.last), {})[name] = files
    return list(groups.values())


def _of_days(
    files: dict[str, list[LandedFile]], lake: "Lake", memory: Memory, models: Mapping[str, ModelSpec]
) -> list[Landing]:
    ingested = [days[-1] for name in files if (days := lake.days(f"raw/{name}"))]
    # A run that is under way may make features of later days from what this landing corrects.
    asked_for = [date.fromisoformat(item.last) for item in memory.open.values() if item.last is not None]
    newest = max([*ingested, *asked_for], default=None)
    late = {name for name, batch in files.items() for file in batch if file.day and newest and file.day <= newest}
    return daily_landings(files, newest=newest, reach=_reach(models, _lags(models, late, lake)))


def _same_calendar(one: Daily | None, other: Daily | None) -> bool:
    return one is not None and other is not None and (one.first, one.last) == (other.first, other.last)


def _taken_up(context: dg.SensorEvaluationContext, landing: Landing) -> Landing:
    """A landing as earlier runs of the very same files leave it, which have used its run keys up.

    There are such runs when files came back with their old times (from a backup, say), and when the cursor was reset.
    """
    files = landing.key
    while runs := context.instance.get_runs(dg.RunsFilter(tags={LANDING: landing.key}), limit=1):
        if not runs[0].is_finished:
            return replace(landing, attempt=int(runs[0].tags.get(ATTEMPT, "1")))
        landing = replace(landing, key=f"{files}-{runs[0].run_id[:8]}")
    return landing


def _again(context: dg.SensorEvaluationContext, memory: Memory) -> Iterator[Landing]:
    """Forgets landings whose run succeeded, and gives those whose run failed or is gone, to be asked for again."""
    for key, landing in list(memory.open.items()):
        runs = context.instance.get_runs(dg.RunsFilter(tags={LANDING: key}), limit=1)
        if not runs:
            context.log.warning(
                f"The run of {landing.files} files ({landing.first} … {landing.last}) is gone: it is asked for again."
            )
            yield landing
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
                yield memory.open[key]


def _lags(models: Mapping[str, ModelSpec], late: Set[str], lake: "Lake") -> dict[str, timedelta]:
    """Source with late or corrected files → how long after their day its facts became known so far.

    One column of each is read, and only when such files are there.
    """
    from pilotage.features.reading import ValidatedRows
    from pilotage.features.view import FeatureView

    there = {name for name in late if lake.exists(f"validated/{name}")}
    asked = [spec for spec in models.values() if any(item.source in there for item in spec.asof)]
    lookups = [lookup for spec in asked for lookup in FeatureView(spec).lookups if lookup.timeline.source in there]
    return ValidatedRows(lake, lookups, lake.versions(f"validated/{name}" for name in there)).lags()


def _reach(models: Mapping[str, ModelSpec], lags: Mapping[str, timedelta] | None = None) -> timedelta:
    """How many days later the features of any model can know of a day.

    Args:
        models: The models.
        lags: Source → how long after their day its facts become known.
    """
    spans = [
        ((item.max_age or timedelta(0)) if isinstance(item, Latest) else item.over)
        + max((lags or {}).get(item.source, timedelta(0)), timedelta(0))
        for spec in models.values()
        for item in spec.asof
    ]
    return timedelta(days=max((span // timedelta(days=1) + 1 for span in spans), default=0))
