"""What a worker keeps at hand for one model: what it remembers of its answers, and who writes them.

Nothing here chooses who answers; ``responder.py`` does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pilotage.runtime.answer_writer import AnswerWriter
from pilotage.runtime.answered import REFERRED
from pilotage.runtime.answers_cache import AnswersCache
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.drafts import Asked, Drafted, DraftedRows, Stage, Turn
from pilotage.runtime.earlier_answers import Earlier, EarlierAnswers
from pilotage.runtime.prepared import Scored, ScoredRows
from pilotage.runtime.routing import EntityHash
from pilotage.runtime.state import OnlineState
from pilotage.spec import ModelSpec

if TYPE_CHECKING:
    from pilotage.runtime.fallback import Ruled


class Desk:
    """One model's desk."""

    def __init__(self, spec: ModelSpec, writer: AnswerWriter) -> None:
        """Prepares what every request needs.

        Args:
            spec: The model's declaration.
            writer: Writes its answers and records.
        """
        self.spec = spec
        self.writer = writer
        self.entities = EntityHash(spec.entity, {field.name: field for field in spec.request})
        self.answers = AnswersCache(spec.serving.cached_answers)
        """Probabilities, by version and features."""
        self.earlier = EarlierAnswers(spec.serving.cached_answers)
        """What versions answered, by the values of the request."""

    def score(self, loaded: Loaded, request: Mapping[str, Any], state: OnlineState) -> tuple[Scored, int]:
        """Asks a version, or remembers what it said to the same features; and says when these were there.

        Raises:
            PilotageError: It can't answer.
        """
        predictor = loaded.predictor
        prepared = predictor.prepare(request, state)
        prepared_ns = time.perf_counter_ns()
        key = (prepared.key,)
        (known,) = self.answers.get(loaded.version, key)
        if known is not None:
            return predictor.decided(prepared, known), prepared_ns
        scored = predictor.decide(prepared)
        self.answers.put(loaded.version, key, (scored.probability,))
        return scored, prepared_ns

    def score_each(self, loaded: Loaded, requests: Sequence[Any], state: OnlineState) -> ScoredRows:
        """``score`` of several, each with its own result or error, in order; the model is asked once for all.

        Raises:
            PilotageError: It can't answer at least one of them, for another reason than what was sent.
        """
        predictor, answers = loaded.predictor, self.answers
        prepared = predictor.prepare_many(requests, state)
        keys = prepared.row_keys()
        known = answers.get(loaded.version, keys)
        if None not in known:
            return predictor.decided_many(prepared, cast(list[float], known))
        new = [place for place, probability in enumerate(known) if probability is None]
        asked = [keys[place] for place in new]
        fresh = predictor.probabilities(asked)
        for place, probability in zip(new, fresh, strict=True):
            known[place] = probability
        scored = predictor.decided_many(prepared, cast(list[float], known))
        answers.put(loaded.version, asked, fresh)
        return scored

    def draft(
        self,
        board: Board,
        asked: Asked,
        turn: Turn,
        scored: Scored,
        *,
        loaded: Loaded | None = None,
        stage: Stage | None = None,
        reasons: tuple[str, ...] = (),
        prepared_ns: int = 0,
    ) -> Drafted:
        """Writes a version's answer and its record.

        Args:
            board: Who was there.
            asked: The request.
            turn: Whose turn it was.
            scored: What the version said.
            loaded: The version that answered in its place, if another one did.
            stage: Its stage.
            reasons: Why it did.
            prepared_ns: When its features were there.
        """
        by = loaded or turn.loaded
        role = stage or turn.stage
        drafted = self.writer.write(
            board,
            asked,
            version=by.version,
            stage=role,
            answered_by="previous_champion" if role == "previous_champion" else "model",
            probability=scored.probability,
            decision=scored.decision,
            referred=scored.referred,
            reasons=reasons + REFERRED if scored.referred else reasons,
            seen=scored.prepared,
            turn=turn,
            by=by,
        )
        drafted.loaded, drafted.scored, drafted.prepared_ns = by, scored, prepared_ns
        self.earlier.put(scored.prepared.values, drafted.answer)
        return drafted

    def draft_rows(
        self, board: Board, turn: Turn, asked: Sequence[Asked], scored: ScoredRows
    ) -> tuple[DraftedRows, bytes]:
        """Writes what one version said to several requests at once, and the record of all; see ``AnswerWriter``."""
        drafts, payload = self.writer.write_rows(board, turn, asked, scored)
        self.earlier.put_many(scored.prepared.requests(), drafts.answers)
        return drafts, payload

    def draft_earlier(
        self, board: Board, asked: Asked, turn: Turn, earlier: Earlier, reasons: tuple[str, ...], *, by: Loaded
    ) -> Drafted:
        """Writes the answer of before again, which the version gave that takes the request now."""
        return self.writer.write(
            board,
            asked,
            version=earlier.version,
            stage=None,
            answered_by="cached_answer",
            probability=earlier.probability,
            decision=earlier.decision,
            referred=earlier.referred,
            reasons=reasons,
            seen=None,
            turn=turn,
            by=by,
        )

    def draft_rule(
        self, board: Board, asked: Asked, turn: Turn | None, ruled: Ruled, reasons: tuple[str, ...]
    ) -> Drafted:
        """Writes the rule's answer, or that there is none."""
        return self.writer.write(
            board,
            asked,
            version=None,
            stage=None,
            answered_by="nothing" if ruled.probability is None else "rule",
            probability=ruled.probability,
            decision=ruled.decision,
            referred=ruled.referred,
            reasons=reasons,
            seen=ruled.prepared,
            turn=turn,
            by=ruled.by,
        )
