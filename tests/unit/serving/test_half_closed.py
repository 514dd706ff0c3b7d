"""Clients that say with their last request that they ask no more, and read on."""

from __future__ import annotations

import pytest

from pilotage.testing.bundles import ORDER
from tests.unit.serving.hosted import Hosted
from tests.unit.serving.test_reading import CHUNKS, IN_CHUNKS, talk
from tests.unit.serving.wire import Wire, asked


@pytest.mark.parametrize(
    "first",
    [
        asked(),
        asked(path="/tiny/predict/batch", body={"requests": [ORDER]}),
        asked(x_request_id="before-the-end"),
        asked(b"", path="/tiny/predict", **IN_CHUNKS) + CHUNKS,
    ],
    ids=["the shorter way", "a batch", "with an id", "in chunks"],
)
@pytest.mark.parametrize("number", [1, 2])
def test_who_has_no_more_to_ask_gets_the_answers_before_the_connection_ends(
    service: Hosted, first: bytes, number: int
) -> None:
    async def with_it(wire: Wire) -> tuple[list[int], bytes]:
        wire.writer.write(first * number)
        wire.writer.write_eof()
        return [(await wire.answer())[0] for _ in range(number)], await wire.reader.read()

    assert talk(service, with_it) == ([200] * number, b"")


@pytest.mark.parametrize("before", [b"", asked(x_request_id="before-half-a-body")], ids=["alone", "after another"])
def test_a_body_that_will_not_come_is_refused_after_what_was_asked_before(service: Hosted, before: bytes) -> None:
    async def with_it(wire: Wire) -> tuple[list[int], bytes]:
        wire.writer.write(before + asked(path="/tiny/predict/batch", body={"requests": [ORDER]})[:-5])
        wire.writer.write_eof()
        return [(await wire.answer())[0] for _ in range(1 + bool(before))], await wire.reader.read()

    assert talk(service, with_it) == ([200, 400][-1 - bool(before) :], b"")
    assert len(service.core.in_flight) == 0


def test_who_ends_a_connection_that_has_its_answers_is_told_nothing(service: Hosted) -> None:
    async def with_it(wire: Wire) -> bytes:
        assert (await wire.ask(asked()))[0] == 200
        wire.writer.write_eof()
        return await wire.reader.read()

    assert talk(service, with_it) == b""
