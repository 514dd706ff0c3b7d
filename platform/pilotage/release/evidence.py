"""What the prediction log says about a version in its rollout: its stages, and the answers of each. Judges nothing.

One entity is one observation. The lot is drawn once for an entity, so its second answer is no second draw; a customer
who asks a thousand times would weigh as much as a thousand. Counted is an entity's first answer in a stage. One that an
earlier step drew too counts again only if it was the champion's then, by the chance that it had left: to have been
passed over at 5 % and drawn at 25 % is a lot of 20 in 95.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import polars as pl

from pilotage.data.lake import Lake
from pilotage.errors import ReleaseError
from pilotage.release.events import Event
from pilotage.release.ledger import Ledger, SqlLedger
from pilotage.release.stages import ModelState, Release
from pilotage.settings import Settings
from pilotage.spec import ModelSpec

REFERENCE = timedelta(days=1)
"""How much of the champion's past, before the first stage, is read to know about what it loses."""

COLUMNS = (
    "prediction_id",
    "entity",
    "at",
    "moment",
    "version",
    "routed_version",
    "drawn_by",
    "answered_by",
    "probability",
    "decision",
    "referred",
    "latency_us",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of a rollout that has begun."""

    kind: Literal["shadow", "canary"]
    sequence: int
    """Of the ledger event that began it; the log's ``drawn_by``."""
    since: datetime
    share: float | None = None
    """Of a canary: the share of the entities, 0..1."""
    salt: str = ""
    """Of a canary: stages with the same one draw the same lots, against another share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a verdict on a version goes by."""

    model: str
    version: int
    champion: int
    """The version that it is compared with."""
    stages: tuple[Stage, ...]
    """Those begun, in their order; the last one is under way."""
    planned: int
    """Stages of the whole rollout."""
    predictions: pl.DataFrame
    """``COLUMNS`` of the prediction log, with ``label`` and ``label_received_at`` (null without) and ``doubt``: all
    versions, from ``REFERENCE`` before the first stage on."""
    shadows: pl.DataFrame
    """The version's shadow records since its stage began."""

    doubts: tuple[str, ...] = ()
    """Which labels are left out, and why, in words."""

    @property
    def stage(self) -> Stage:
        """The stage under way."""
        return self.stages[-1]

    @property
    def answers(self) -> pl.DataFrame:
        """The version's own answers in the stage under way (as a shadow: what it would have answered), with labels."""
        if self.stage.kind == "shadow":
            return paired(self).filter(pl.col("error").is_null())
        mine = (pl.col("drawn_by") == self.stage.sequence) & (pl.col("routed_version") == self.version)
        return self.predictions.filter(mine & (pl.col("version") == self.version))


def gather(
    spec: ModelSpec,
    state: ModelState,
    settings: Settings,
    lake: Lake,
    *,
    ledger: Ledger | None = None,
    version: int | None = None,
) -> Evidence:
    """Reads what is known of a version in its rollout.

    Args:
        spec: The model.
        state: What was decided about it.
        settings: Where the log is.
        lake: Where the moved log is.
        ledger: Another ledger than the settings'.
        version: A version in shadow, or the canary; ``None`` for the one that the rollout decides about next.

    Raises:
        ReleaseError: No such version is under way, or there is no champion to compare it with.
    """
    from pilotage.monitoring.label_doubts import doubts
    from pilotage.monitoring.predictions import read_shadows

    about = version if version is not None else (state.under_way.version if state.under_way else None)
    events = (ledger or SqlLedger.to_read(settings)).events()
    stages = stages_of(events, state, about) if about is not None else ()
    if about is None or not stages or state.champion is None:
        of = spec.name if version is None else f"{spec.name} version {version}"
        raise ReleaseError(
            f"No rollout of {of} is under way that evidence could be about.",
            fix=f"See pilotage status {spec.name}.",
            model=spec.name,
        )
    since = stages[0].since - REFERENCE
    shadows = read_shadows(settings, spec.name, lake=lake, since=stages[0].since, version=about)
    answers = answers_since(spec, since, settings, lake, champion=state.champion)
    return Evidence(
        model=spec.name,
        version=about,
        champion=state.champion.version,
        stages=stages,
        planned=int(spec.rollout.shadow is not None) + len(spec.rollout.canary),
        predictions=answers,
        shadows=shadows,
        doubts=tuple(doubts(answers)),
    )


def answers_since(
    spec: ModelSpec, since: datetime, settings: Settings, lake: Lake, *, champion: Release | None
) -> pl.DataFrame:
    """What was answered since then: ``COLUMNS`` of the log, with ``label`` and ``label_received_at`` where known.

    Labels that can hardly be right are left out; ``doubt`` says why (see ``label_doubts.py``).
    """
    from pilotage.monitoring.label_doubts import with_doubts
    from pilotage.monitoring.predictions import labelled, read_log

    labels = labelled(settings, spec.name, lake=lake, since=since, columns=("prediction_id",))
    answers = read_log(settings, spec.name, lake=lake, since=since, columns=COLUMNS).join(
        labels.select("prediction_id", "label", "label_received_at"),
        on="prediction_id",
        how="left",
        maintain_order="left",
    )
    learned = champion.facts.get("last") if champion else None
    accepted = date.fromisoformat(learned) if learned else None
    return with_doubts(spec, answers, settings=settings, lake=lake, accepted=accepted)


def stages_of(events: Sequence[Event], state: ModelState, version: int) -> tuple[Stage, ...]:
    """The stages of a version's rollout that have begun, against the champion of now.

    Args:
        events: Of the ledger.
        state: What they amount to, for the model.
        version: The version; none have begun of one that is neither in shadow nor in canary.
    """
    if version not in state.versions or state.versions[version].stage not in ("shadow", "canary"):
        return ()
    about = [e for e in events if e.model == state.model and e.version == version and e.kind not in _BESIDE]
    first = state.challenger.first if state.challenger and state.challenger.version == version else None
    steps: list[Event] = []
    while first is not None and about and about[-1].kind == "canaried" and about[-1].sequence >= first:
        steps.insert(0, about.pop())
    stages = []
    if about and about[-1].kind == "shadowed":
        crowned = state.champion.promoted_at if state.champion else about[-1].at
        stages.append(Stage(kind="shadow", sequence=about[-1].sequence, since=max(about[-1].at, crowned)))
    return (*stages, *(share_of(event) for event in steps))


def share_of(event: Event) -> Stage:
    """The stage that an event begins which gives a version a share."""
    facts = event.payload
    return Stage(
        kind="canary", sequence=event.sequence, since=event.at, share=float(facts["share"]), salt=facts["salt"]
    )


_BESIDE = ("approved", "verdict", "alias_edited", "watch_ended")
"""Events about a version that leave it in its stage."""


def observations(evidence: Evidence, stage: Stage) -> pl.DataFrame:
    """One row per entity that a stage says something about, its first answer in it: ``paired`` or ``drawn``."""
    return first_answers(paired(evidence)) if stage.kind == "shadow" else drawn(evidence, stage)


def paired(evidence: Evidence) -> pl.DataFrame:
    """What the champion answered and what the shadow would have, on the same requests; the shadow's as ``shadow_…``."""
    return (
        evidence.predictions.filter(pl.col("routed_version") == evidence.champion)
        .join(
            evidence.shadows.select(
                "prediction_id",
                "error",
                pl.col("probability").alias("shadow_probability"),
                pl.col("decision").alias("shadow_decision"),
                pl.col("referred").alias("shadow_referred"),
            ),
            on="prediction_id",
            how="inner",
        )
        .sort("at", "prediction_id")
    )


def drawn(evidence: Evidence, stage: Stage) -> pl.DataFrame:
    """The observations of a canary's step: one row per entity that it decided about by lot, its first answer.

    Returns:
        Columns of the log, with ``challenger`` (whose turn it was) and ``share`` (the chance that it had).
    """
    if stage.share is None:
        raise ReleaseError("A shadow draws no lots.", fix="Ask for a canary's step.")
    turns = pl.col("routed_version").is_in([evidence.version, evidence.champion])
    rows = first_answers(evidence.predictions.filter((pl.col("drawn_by") == stage.sequence) & turns)).with_columns(
        (pl.col("routed_version") == evidence.version).alias("challenger")
    )
    seen = pl.concat(list(_lots(evidence, stage)), how="vertical")
    passed = seen.group_by("_entity").agg(pl.col("_share").max(), pl.col("_drawn").any())
    known = rows.join(passed, on="_entity", how="left", maintain_order="left").with_columns(
        pl.col("_share").fill_null(0.0), pl.col("_drawn").fill_null(value=False)
    )
    left = (stage.share - pl.col("_share")) / (1 - pl.col("_share"))
    return known.with_columns(left.alias("share")).filter(pl.col("_drawn").not_() & (pl.col("share") > 0))


def first_answers(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per entity, its first, whatever the order of the rows: the id decides between equal times."""
    named = pl.col("entity").is_not_null() & (pl.col("entity") != "{}")
    return (
        rows.with_columns(pl.when(named).then(pl.col("entity")).otherwise(pl.col("prediction_id")).alias("_entity"))
        .sort("at", "prediction_id")
        .unique("_entity", keep="first", maintain_order=True)
    )


def _lots(evidence: Evidence, stage: Stage) -> Iterator[pl.DataFrame]:
    """What earlier steps decided about entities."""
    yield pl.DataFrame(schema={"_entity": pl.String(), "_share": pl.Float64(), "_drawn": pl.Boolean()})
    for earlier in evidence.stages:
        if earlier.kind == "canary" and earlier.salt == stage.salt and earlier.sequence < stage.sequence:
            rows = first_answers(evidence.predictions.filter(pl.col("drawn_by") == earlier.sequence))
            drawn = (pl.col("routed_version") == evidence.version).alias("_drawn")
            yield rows.select("_entity", pl.lit(earlier.share).alias("_share"), drawn)
