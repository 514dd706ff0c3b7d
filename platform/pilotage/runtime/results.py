"""What many rows of one request got: a result or an error each. Nothing here knows what a result is."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Generic, TypeVar

from pilotage.errors import PilotageError

T = TypeVar("T")


class Results(Sequence[T | PilotageError], Generic[T]):
    """One entry a row, in order, of which only the errors are there: a result is made of columns when somebody looks.

    Hardly anybody does, and a batch of rows then needs no object for each of them.
    """

    def __init__(self, number: int, errors: Mapping[int, PilotageError]) -> None:
        """Takes the errors.

        Args:
            number: How many rows there are.
            errors: By the place of the row.
        """
        self.errors = errors
        self.places: Sequence[int] = range(number) if not errors else [at for at in range(number) if at not in errors]
        """Of the rows that have a result."""
        self._number = number

    @abstractmethod
    def result(self, index: int) -> T:
        """The result with a number, counted without the errors."""

    def all(self) -> Iterator[T]:
        """The results without the errors."""
        return map(self.result, range(len(self.places)))

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[T | PilotageError]:
        results = self.all()
        if not self.errors:
            return results
        found = map(self.errors.get, range(self._number))
        return (next(results) if error is None else error for error in found)

    def __getitem__(self, place: int) -> T | PilotageError:  # type: ignore[override]
        place = range(self._number)[place]
        if (error := self.errors.get(place)) is not None:
            return error
        return self.result(bisect_left(self.places, place))


class Joined(Sequence[T]):
    """Sequences one after another, as they are."""

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self.parts)

    def __getitem__(self, place: int) -> T:  # type: ignore[override]
        return next(islice(self, range(len(self))[place], None))
