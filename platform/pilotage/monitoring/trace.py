"""One prediction, back to where it came from: its answer, the version, who released it, its data, and the files of it.

Everything is read from the records of the time: the prediction log, the ledger, and the notes of the lake's commits.
The explanation is computed again from the features that were logged, by the very bundle that answered, and is told only
if the same probability comes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import polars as pl

from pilotage.data.lake import Lake
from pilotage.data.lineage import Origin, origin, validated_versions
from pilotage.errors import PilotageError, UnknownPrediction, UnpublishedData
from pilotage.monitoring.log_frames import column_as, feature_column, is_spread, spread_values
from pilotage.monitoring.outcomes import label
from pilotage.monitoring.predictions import read_log, read_outcomes, read_shadows, read_states
from pilotage.monitoring.skew import BY_A_MODEL, Bundles, bundles_of
from pilotage.pseudonyms import PREFIX
from pilotage.runtime.answer import Explanation
from pilotage.runtime.bundle import TOLERANCE, Bundle
from pilotage.runtime.explain import Explainer
from pilotage.runtime.prepared import Prepared, Scored
from pilotage.settings import Settings

if TYPE_CHECKING:
    from pilotage.release.history import VersionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """See above."""

    model: str
    prediction: Mapping[str, Any]
    """The columns of a ``PredictionRecord`` that every prediction has."""
    request: Mapping[str, Any]
    """As it was logged: what identifies a person is a pseudonym."""
    features: Mapping[str, Any]
    state: Mapping[str, Any] | None
    """The online state that the as-of features are from: ``through`` and ``versions``."""
    shadows: tuple[Mapping[str, Any], ...]
    """What other versions would have answered."""
    outcome: Mapping[str, Any] | None
    """What became of it, if that is known: ``label`` and ``label_known_at``."""
    version: VersionRecord | None
    """``None`` if no version answered."""
    explanation: Explanation | None
    unexplained: str | None
    """Why there is no explanation, if there is none."""
    origins: tuple[Origin, ...]
    """Where the rows are from that the version was trained on."""
    lost: tuple[str, ...]
    """What the lake does not know any more."""


def trace(prediction_id: str, *, settings: Settings, lake: Lake) -> Trace:
    """Traces a prediction, of whatever model.

    Raises:
        UnknownPrediction: No model's log has it.
        LedgerUnavailable: The ledger can't be read.
    """
    from pilotage.release.history import version_record
    from pilotage.release.ledger import SqlLedger
    from pilotage.release.state import fold

    ledger = SqlLedger.of(settings)
    try:
        events = list(ledger.events())
    finally:
        ledger.close()
    states = fold(events)
    wanted = pl.Series([prediction_id], dtype=pl.String())
    erased = any(event.kind == "erased" for event in events)
    model, row = _find(wanted, sorted({*states, *_logged(lake)}), settings, lake, erased=erased)
    [prediction] = row.iter_rows(named=True)
    version = version_record(states.get(model), prediction["version"], events)
    explanation, unexplained = _explained(row, prediction, bundles_of(model, states.get(model), settings))
    origins, lost = _origins(version, lake)
    return Trace(
        model=model,
        prediction={name: value for name, value in prediction.items() if not is_spread(name)},
        request=spread_values(prediction, "request"),
        features=spread_values(prediction, "feature"),
        state=_state(model, prediction["state"], settings, lake),
        shadows=tuple(
            read_shadows(settings, model, lake=lake, only=wanted).drop("prediction_id", "model").iter_rows(named=True)
        ),
        outcome=_outcome(model, row, settings, lake),
        version=version,
        explanation=explanation,
        unexplained=unexplained,
        origins=origins,
        lost=lost,
    )


def _find(
    wanted: pl.Series, models: Iterable[str], settings: Settings, lake: Lake, *, erased: bool
) -> tuple[str, pl.DataFrame]:
    for model in models:
        row = read_log(settings, model, lake=lake, only=wanted)
        if row.height:
            return model, row
    prediction_id: str = wanted[0]
    raise UnknownPrediction(
        f"There is no prediction {prediction_id[:100]!r} in the log."
        + " People were erased, and their predictions with them: pilotage audit log." * erased,
        fix="Use the prediction_id of an answer; a request's own id is a column of the log:"
        " pilotage sql \"select prediction_id from predictions.MODEL where request_id = '…'\".",
        prediction_id=prediction_id[:100],
    )


def _logged(lake: Lake) -> list[str]:
    """Models with predictions in the lake, whatever the ledger says."""
    rooms = (table.partition("/") for table in lake.tables())
    return [model for room, _, model in rooms if room == "predictions"]


def _explained(row: pl.DataFrame, said: Mapping[str, Any], bundles: Bundles) -> tuple[Explanation | None, str | None]:
    """The explanation, or why there is none."""
    if said["answered_by"] not in BY_A_MODEL or said["version"] is None:
        return None, f"no model was asked: it was answered by {said['answered_by']}"
    try:
        bundle = bundles(said["version"])
    except PilotageError as error:
        return None, error.message
    scored = _scored(bundle, row, said)
    if isinstance(scored, str):
        return None, scored
    if not abs(scored.probability - said["probability"]) <= TOLERANCE:
        return None, (
            f"the logged features give {scored.probability} today, and not the {said['probability']} that was answered:"
            " see docs/runbooks/skew.md"
        )
    return Explainer(bundle).explain(scored), None


def _scored(bundle: Bundle, row: pl.DataFrame, said: Mapping[str, Any]) -> Scored | str:
    """What the version says to the features that were logged, or why it can't be asked."""
    names = tuple(bundle.view.schema)
    values = [column_as(row, feature_column(name), dtype)[0] for name, dtype in bundle.view.schema.items()]
    hidden = [
        name for name, value in zip(names, values, strict=True) if isinstance(value, str) and value.startswith(PREFIX)
    ]
    if hidden:
        return f"{hidden[0]} identifies a person, so the log has a pseudonym in its place"
    key = bundle.scorer.encode_row(values)
    prepared = Prepared(
        fields=(),
        values=(),
        moment=None,
        row=(),
        names=names,
        computed=values,
        key=key,
        state_through=None,
        state=None,
    )
    return Scored(prepared, bundle.scorer.score_row(key), said["decision"], said["referred"])


def _origins(version: VersionRecord | None, lake: Lake) -> tuple[tuple[Origin, ...], tuple[str, ...]]:
    """Where the training rows are from, and what can't be told of it."""
    if version is None:
        return (), ()
    last = version.facts.get("last")
    until = date.fromisoformat(last) if last else None
    found: dict[str, Origin] = {}
    lost: list[str] = []
    for table, number in (version.facts.get("lake_versions") or {}).items():
        try:
            made_from = validated_versions(lake, table, number)
        except UnpublishedData as error:
            lost.append(error.message)
            continue
        if made_from is None:
            lost.append(f"What {table} version {number} was made from: the lake has forgotten that commit.")
        for source, source_version in (made_from or {}).items():
            found[source] = origin(lake, source, source_version, last=until)
    return tuple(found.values()), tuple(lost)


def _state(model: str, wanted: str | None, settings: Settings, lake: Lake) -> Mapping[str, Any] | None:
    if wanted is None:
        return None
    states = read_states(settings, model, lake=lake).filter(pl.col("state") == wanted)
    for row in states.iter_rows(named=True):
        return {"through": row["through"], "versions": {each["table"]: each["version"] for each in row["versions"]}}
    return None


def _outcome(model: str, row: pl.DataFrame, settings: Settings, lake: Lake) -> Mapping[str, Any] | None:
    told = label(row.select("prediction_id", "entity", "moment"), read_outcomes(settings, model, lake=lake))
    known = told.select("label", "label_known_at", "outcome_id").rows(named=True)
    return known[0] if known else None
