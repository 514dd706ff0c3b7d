"""Every error the platform raises on purpose. One base, one tree; no other module defines an exception.

    PilotageError
    ├── DeclarationError       a ModelSpec or SourceSpec says something impossible
    ├── ConfigError            a setting, a run configuration or a command line is wrong
    ├── DataError
    │   ├── SourceUnavailable  the SQL server or REST endpoint can't be reached, or stopped half way
    │   ├── UnreadableFile     a landed file can't be read as what it says it is
    │   ├── SchemaChanged      columns of the source were renamed, dropped, retyped or added
    │   ├── ExpectationFailed  an expectation could not be evaluated (not: was not met)
    │   ├── UnpublishedData    downstream asked for data that was not validated
    │   │   └── RowsErased     rows of the version that was asked for were erased since
    │   └── NotErased          somebody can't be erased now, or not completely
    ├── LakeError
    │   ├── CommitConflict     concurrent writers; retries used up
    │   └── StorageFull        no room while writing; nothing was committed
    ├── TrainingError          a model can't be trained or evaluated on this data
    │   └── NotReproducible    a version can't be built again from its record
    ├── ReleaseError
    │   ├── BundleCorrupt      a bundle's bytes are not what its manifest says
    │   ├── RegistryUnavailable MLflow can't be reached
    │   ├── LedgerConflict     somebody else appended first
    │   ├── LedgerUnavailable  the ledger's database can't be reached, or is damaged
    │   │   └── KillNotRecorded a model is killed on this host, and the ledger does not know
    │   ├── NotReleasable      the version may not become champion
    │   └── NotApproved        somebody who may has to approve it first
    └── ServingError
        ├── UnknownModel       404
        ├── InvalidRequest     422
        ├── RequestTooLarge    413
        ├── Unauthenticated    401
        ├── NotAllowed         403
        ├── RequestConflict    409
        ├── RateLimited        429
        ├── ModelNotReady      503
        ├── StateUnavailable   503
        ├── LogUnavailable     503
        ├── Overloaded         503
        ├── TimedOut           504
        └── InternalError      500: a defect, as a client is told of it

An error takes its culprits as data (keyword arguments, kept in ``details``); its message names the culprit and the
fix. ``http_status`` is what the one HTTP boundary answers with.
"""

from __future__ import annotations

from typing import ClassVar


class PilotageError(Exception):
    """Base of every deliberate error.

    Args:
        message: What is wrong, with the culprit's name.
        fix: What the reader can do about it, as an imperative sentence.
        details: The culprits as data, for logs, metadata and HTTP answers. Never secrets.
    """

    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, fix: str, **details: object) -> None:
        self.message = message
        self.fix = fix
        self.details = details
        super().__init__(f"{message} Fix: {fix}")


class DeclarationError(PilotageError):
    """A ModelSpec or SourceSpec says something impossible."""


class ConfigError(PilotageError):
    """A setting, a run configuration or a command line is wrong."""


class DataError(PilotageError):
    """Data is not what was declared."""


class SourceUnavailable(DataError):
    """A SQL server or REST endpoint can't be reached, or stopped half way."""


class UnreadableFile(DataError):
    """A landed file can't be read as what it says it is."""


class SchemaChanged(DataError):
    """Columns of a source were renamed, dropped, retyped or added."""


class ExpectationFailed(DataError):
    """An expectation could not be evaluated. (One that was not met is a result, not an error.)"""


class UnpublishedData(DataError):
    """Downstream asked for data that was not validated."""


class RowsErased(UnpublishedData):
    """A version of a table held rows of somebody who was erased since."""


class NotErased(DataError):
    """Somebody can't be erased now, or something of them is left."""


class LakeError(PilotageError):
    """The lake could not do what it was asked."""


class CommitConflict(LakeError):
    """Concurrent writers kept winning; the retries are used up and nothing was written."""


class StorageFull(LakeError):
    """No room was left while writing; nothing was committed."""


class TrainingError(PilotageError):
    """A model can't be trained or evaluated on this data."""


class NotReproducible(TrainingError):
    """A version can't be built again: the code has moved on, or its record says too little."""


class ReleaseError(PilotageError):
    """A version can't be recorded or released."""


class BundleCorrupt(ReleaseError):
    """A bundle's bytes are not what its manifest says."""


class CardChanged(ReleaseError):
    """A version's model card is not the one that was written."""


class RegistryUnavailable(ReleaseError):
    """MLflow can't be reached."""


class LedgerConflict(ReleaseError):
    """Somebody else appended to the ledger first."""


class LedgerUnavailable(ReleaseError):
    """The ledger's database can't be reached, or is damaged."""


class KillNotRecorded(LedgerUnavailable):
    """A model is killed on this host, and the ledger does not know it yet."""


class NotReleasable(ReleaseError):
    """The version may not become champion."""


class NotApproved(ReleaseError):
    """The version needs the approval of somebody else first."""


class ServingError(PilotageError):
    """The prediction service can't answer as asked."""


class UnknownModel(ServingError):
    """No model has this name."""

    http_status = 404


class UnknownPrediction(PilotageError):
    """No prediction has this id."""


class InvalidRequest(ServingError):
    """The request is not what the model's contract asks for."""

    http_status = 422

    @property
    def without_value(self) -> str:
        """What is wrong, for others than who sent it: the message may quote a value."""
        field = self.details.get("field")
        return f"{field}: {self.fix}" if field else self.message


class ModelNotReady(ServingError):
    """No verified champion is loaded."""

    http_status = 503


class StateUnavailable(ServingError):
    """The online store is missing, damaged, or does not hold what the model asks for."""

    http_status = 503


class RequestTooLarge(ServingError):
    """The body has more bytes, more rows or more nesting than one request may have."""

    http_status = 413


class Unauthenticated(ServingError):
    """No key was sent, or none that is valid now."""

    http_status = 401


class NotAllowed(ServingError):
    """The key is valid, and its roles do not cover this."""

    http_status = 403


class RequestConflict(ServingError):
    """The same request id was sent before, with another content."""

    http_status = 409


class RateLimited(ServingError):
    """The key has used up what it may ask for now; ``details["retry_after_s"]`` says when to come again."""

    http_status = 429


class LogUnavailable(ServingError):
    """The prediction could not be put on disk, and its model does not answer without."""

    http_status = 503


class Overloaded(ServingError):
    """As many requests as can be are being answered already; ``details["retry_after_s"]`` says when to come again."""

    http_status = 503


class TimedOut(ServingError):
    """The answer took longer than a client should wait."""

    http_status = 504


class InternalError(ServingError):
    """A defect of ours, as a client is told of it: whatever was raised stays inside."""
