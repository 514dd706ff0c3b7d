"""A candidate's model card: what it is for, what it learned from, how good it is and for whom, in one page of Markdown.

Its parts are those of Mitchell et al. 2019, "Model Cards for Model Reporting" (doi:10.1145/3287560.3287596). It says
what was declared and measured when the candidate was trained, and is kept with it (``release/cards.py``); what was
decided since is the ledger's to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from pilotage.durations import in_words
from pilotage.runtime.bundle import FILES
from pilotage.runtime.folder import read_verified
from pilotage.training.refit import REFIT_OF

if TYPE_CHECKING:
    from jinja2 import Template

    from pilotage.release.records import Provenance
    from pilotage.spec import ModelSpec
    from pilotage.training.records import Candidate, Evaluation, Interval, Slice, TrainingSet, Verdict

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_NOTHING = "–"


def model_card(
    spec: ModelSpec,
    *,
    training_set: TrainingSet,
    candidate: Candidate,
    evaluation: Evaluation,
    verdict: Verdict,
    provenance: Provenance,
    confidence: float = 0.95,
) -> str:
    """The card of a judged candidate, registered or refused; Markdown with tables.

    Args:
        spec: As it was declared when the candidate was trained.
        training_set: What it was trained on.
        candidate: What would be, or is, released.
        evaluation: What was judged.
        verdict: The gate's.
        provenance: Who asked for it, and where it ran.
        confidence: Of the intervals in the evaluation, 0..1.

    Raises:
        BundleCorrupt: The candidate's bundle is not what its record says.
    """
    manifest, _, _ = read_verified(Path(candidate.bundle), FILES, sha256=candidate.bundle_sha256)
    return _template().render(
        spec=spec,
        costs=spec.kpi.cost,
        training_set=training_set,
        candidate=candidate,
        evaluation=evaluation,
        versus=evaluation.versus_champion,
        verdict=verdict,
        provenance=provenance,
        confidence=confidence,
        manifest=manifest,
        refit=REFIT_OF in manifest["training"],
        features=sorted(spec.features, key=lambda feature: -candidate.importance.get(feature.name, 0.0)),
        personal=[field.name for field in spec.request if field.personal],
        parts=_parts(evaluation),
    )


def _parts(evaluation: Evaluation) -> dict[str, list[Slice]]:
    """Slices by their column, and the months of the holdout."""
    told: dict[str, list[Slice]] = {}
    for part in evaluation.slices:
        told.setdefault(part.column, []).append(part)
    if months := [part for part in evaluation.months if part.column == "holdout"]:
        told["month"] = months
    return told


def as_text(value: object) -> str:
    """A value in one line of Markdown that is nothing but text: no cell of a table, no link, no HTML."""
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)


def _printed(value: object) -> str:
    return str(value) if isinstance(value, Markup) else as_text(value)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    def code(value: str) -> Markup:
        return Markup("`" + " ".join(value.split()).replace("`", "'").replace("|", "\\|") + "`")  # noqa: S704 - quoted

    # Markdown, not HTML: `_printed` is what HTML's autoescaping would be.
    environment = Environment(finalize=_printed, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    environment.filters |= {
        "md": Markup,
        "code": code,
        "codes": lambda names: Markup(", ").join(code(name) for name in names),
        "words": lambda text: text.replace("_", " "),
        "number": _number,
        "count": lambda rows: f"{rows:,.0f}",
        "percent": _percent,
        "interval": lambda interval: _interval(interval, _number),
        "interval_of_shares": lambda interval: _interval(interval, _percent),
        "moment": _moment,
        "span": in_words,
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _number(value: float | None) -> str:
    return _NOTHING if value is None or not math.isfinite(value) else f"{value:.4g}"


def _percent(share: float | None) -> str:
    if share is None or not math.isfinite(share):
        return _NOTHING
    # What is rare is not nothing.
    return f"{round(100 * share, 1) or round(100 * share, 4):g} %"


def _interval(interval: Interval | None, form: Callable[[float], str]) -> str:
    if interval is None:
        return _NOTHING
    ends = (interval.low, interval.high)
    return form(interval.value) + (f" ({form(ends[0])} to {form(ends[1])})" if all(map(math.isfinite, ends)) else "")


def _moment(value: datetime | str) -> str:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
