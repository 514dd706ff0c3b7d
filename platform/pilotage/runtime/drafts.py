"""What is asked, whose turn it is to answer, and answers that wait for their records to be on disk. Records only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pilotage.runtime.answer import Answer
from pilotage.runtime.answered import AnsweredRows
from pilotage.runtime.board import Board, Loaded
from pilotage.runtime.prepared import Scored, ScoredRows
from pilotage.runtime.results import Results

Stage = Literal["champion", "canary", "previous_champion"]


class Asked(NamedTuple):
    """What is known of a request beside its fields."""

    request: Any
    """As sent; of a batch, all rows."""
    request_id: str
    """The client's, or ours."""
    caller: str
    """Id of the API key; ``""`` where none is needed."""
    started: int
    """``time.perf_counter_ns`` from which on it takes time."""


class AskedRows(Sequence[Asked]):
    """The rows of one request, each as if it had been asked by itself."""

    def __init__(self, whole: Asked) -> None:
        """Takes the request with all its rows."""
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole.request)

    def __getitem__(self, place: int) -> Asked:  # type: ignore[override]
        return self.whole._replace(request=self.whole.request[place])


class Turn(NamedTuple):
    """Whose turn it is to answer a request."""

    loaded: Loaded
    stage: Stage
    drawn_by: int | None
    """See ``PredictionRecord``."""


@dataclass(slots=True, kw_only=True)
class Drafted:
    """An answer that waits for its record to be on disk."""

    answer: Answer
    payload: bytes
    """The record, as the log holds it."""
    board: Board
    asked: Asked
    loaded: Loaded | None
    """The version that answered, if one did."""
    scored: Scored | None
    """What it saw and said."""
    prepared_ns: int = 0
    """``time.perf_counter_ns`` when the features were there, and the model was about to be asked; 0 if it was not."""


class DraftedRows(Results[Drafted]):
    """What one version said to several requests at once; there is one record of all, which is not in the drafts."""

    def __init__(
        self, board: Board, loaded: Loaded, asked: Sequence[Asked], scored: ScoredRows, answers: AnsweredRows
    ) -> None:
        """Takes what belongs together, request by request."""
        super().__init__(len(scored), scored.errors)
        self.board = board
        self.answers = answers
        self.prepared_ns = scored.prepared.prepared_ns
        """As in ``Drafted``."""
        self._loaded = loaded
        self._asked = asked
        self._scored = scored

    def result(self, index: int) -> Drafted:
        """The draft of one request."""
        return Drafted(
            answer=self.answers.result(index),
            payload=b"",
            board=self.board,
            asked=self._asked[self.places[index]],
            loaded=self._loaded,
            scored=self._scored.result(index),
            prepared_ns=self.prepared_ns,
        )
