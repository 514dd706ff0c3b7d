"""Ten thousand people at once: no answer, and no row of the log, has anything of somebody else's."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.answer import OutcomeRecord, PredictionRecord
from pilotage.runtime.log import read_segment, segments
from tests.faults.world import World, expected, opened, order

PEOPLE, CONNECTIONS, CALLERS = 10_000, 600, 5
BATCH = 25
"""People of one request, where they share one."""


class Person:
    """One identity: an entity, values that follow from it, and what became of its request."""

    def __init__(self, number: int, caller: int) -> None:
        self.number = number
        self.caller = caller
        self.answer: dict[str, Any] = {}
        self.request_id = ""


async def talk(port: int, jobs: itertools.chain[Callable[..., Any]], keys: list[str]) -> None:
    """All of them, on many connections at once."""

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def ask(path: str, content: Any, caller: int, name: str | None) -> dict[str, Any]:
            body = json.dumps(content).encode()
            more = f"X-Request-Id: {name}\r\n" if name else ""
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{more}"
                f"Authorization: Bearer {keys[caller]}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in told[1:] if line)}
            content = json.loads(await reader.readexactly(int(headers["content-length"])))
            assert told[0].split(" ")[1] in ("200", "202"), (told[0], content)
            return {"id": headers["x-request-id"], "content": content}

        for job in jobs:
            await job(ask)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


def alone(person: Person, model: str, name: str | None) -> Callable[..., Any]:
    async def job(ask: Callable[..., Any]) -> None:
        told = await ask(f"/{model}/predict", order(person.number), person.caller, name)
        person.answer, person.request_id = told["content"], told["id"]
        if name is not None:
            assert told["id"] == name
            again = await ask(f"/{model}/predict", order(person.number), person.caller, name)
            assert again["content"] == person.answer, "the same request again gets its own answer again"
        await ask(
            f"/{model}/outcomes",
            {"prediction_id": person.answer["prediction_id"], "label": person.number % 2 == 0},
            person.caller,
            None,
        )

    return job


def together(people: list[Person], model: str) -> Callable[..., Any]:
    async def job(ask: Callable[..., Any]) -> None:
        content = {"requests": [order(each.number) for each in people]}
        told = await ask(f"/{model}/predict/batch", content, people[0].caller, None)
        for person, entry in zip(people, told["content"]["answers"], strict=True):
            person.answer, person.request_id = entry["answer"], told["id"]

    return job


@pytest.mark.timeout(900)
def test_ten_thousand_identities_at_once_are_kept_apart(
    world: World, draw: random.Random, tell: Callable[[str], None]
) -> None:
    roles = ["predict", "outcomes", "read"]
    made = [create_key(world.settings.api_keys, f"app {each}", roles=roles, limit=None) for each in range(CALLERS)]
    ids, keys = [record.id for record, _ in made], [key for _, key in made]
    people: dict[str, list[Person]] = defaultdict(list)
    jobs: list[Callable[..., Any]] = []
    waiting: dict[tuple[str, int], list[Person]] = defaultdict(list)
    for number in range(PEOPLE):
        person, model = Person(number, draw.randrange(CALLERS)), draw.choice(("tiny", "tiny_state"))
        people[model].append(person)
        if draw.random() < 0.5:
            # An id that another caller has as well: it must not find the other's answer.
            jobs.append(alone(person, model, f"order-{number // 7}-{number % 7}" if draw.random() < 0.3 else None))
        elif len(group := waiting[model, person.caller]) == BATCH - 1:
            jobs.append(together([*group, person], model))
            group.clear()
        else:
            group.append(person)
    jobs += [together(group, model) for (model, _), group in waiting.items() if group]
    draw.shuffle(jobs)
    with world.serving(ready=False) as serving:
        serving.running.until("/readyz")
        serving.running.client.headers["authorization"] = f"Bearer {keys[0]}"
        serving.until_complete()
        asyncio.run(talk(serving.port, iter(jobs), keys))  # type: ignore[arg-type]
    tell(f"{PEOPLE} identities in {len(jobs)} exchanges over {CONNECTIONS} connections, {CALLERS} callers")
    _check(world, people, ids)


def _check(world: World, people: dict[str, list[Person]], ids: list[str]) -> None:
    rows = {}
    outcomes: dict[str, OutcomeRecord] = {}
    for segment in segments(world.settings.prediction_log):
        for record in read_segment(segment.path):
            if isinstance(record, PredictionRecord):
                assert record.prediction_id not in rows
                rows[record.prediction_id] = record
            elif isinstance(record, OutcomeRecord):
                outcomes[str(record.prediction_id)] = record
    assert len(rows) == PEOPLE, "one row a person, whoever asked twice"
    bundles = opened(world)
    for model, members in people.items():
        right = expected(bundles[model, 1], [person.number for person in members])
        for person, probability in zip(members, right, strict=True):
            asked, answer = order(person.number), person.answer
            row = rows[answer["prediction_id"]]
            assert (answer["entity"], answer["probability"]) == ({"order_id": asked["order_id"]}, probability)
            assert (row.model, row.entity, row.probability) == (model, answer["entity"], probability)
            assert (row.caller, row.request_id) == (ids[person.caller], person.request_id)
            sent = {**asked, "ordered_at": row.request["ordered_at"]}
            assert row.request == sent
            assert row.features is not None
            assert (row.features["amount"], row.features["courier"]) == (asked["amount"], asked["courier"])
            outcome = outcomes.get(answer["prediction_id"])
            assert outcome is None or (outcome.label, outcome.caller) == (person.number % 2 == 0, ids[person.caller])
