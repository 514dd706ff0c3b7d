"""A shop whose couriers are people: everything that a home holds of them, made by the platform itself.

Quirinius is the courier to be erased. He drove two orders that are fine, one of them in an older version only under
another amount, and one that is in quarantine; two of them were predicted, by their ids and under his pseudonym.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from pilotage.data.ingest import ingest
from pilotage.data.lake import Lake
from pilotage.data.source import Daily, Files, SourceSpec
from pilotage.data.validate import validate
from pilotage.features.build import build_features
from pilotage.features.online import build_online
from pilotage.governance.erasure import Erasure
from pilotage.governance.whom import Person
from pilotage.monitoring.moving import move_log
from pilotage.pseudonyms import Pseudonyms
from pilotage.runtime.answer import Record
from pilotage.runtime.idempotency import Fresh, Idempotency, Stored
from pilotage.settings import Settings
from pilotage.spec import Latest, ModelSpec
from pilotage.testing.bundles import make_bundle, tiny_spec
from tests.unit.cli.ledgers import append
from tests.unit.monitoring.logs import outcome, prediction, shadow, write_segment
from tests.unit.release.lives import registered

NAME, NUMBERS, AMOUNTS = "Quirinius-Zebedee", ("ORD-77123", "ORD-77124", "ORD-77125"), (713.37, 913.31, 64_128.19)
FIRST = date(2024, 1, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(3)]
HEADER = "who,number,amount,items,express,shop,ordered_at,is_late"
WHY: dict[str, str] = {"actor": "dpo", "why": "request 2026-17"}


def spec(**changes: Any) -> ModelSpec:
    """The model; couriers are personal."""
    plain = tiny_spec(with_state=True)
    wallet = Latest(
        name="stock",
        source="wallets",
        on={"courier": "owner"},
        known_at="known_at",
        columns={"level": pl.Int64},
    )
    request = tuple(each.model_copy(update={"personal": each.name == "courier"}) for each in plain.request)
    return tiny_spec(with_state=True, asof=(wallet,), request=request, **changes)


def _orders(raw: pl.LazyFrame) -> pl.LazyFrame:
    ordered = pl.col("ordered_at")
    return raw.select(
        order_id="number",
        courier="who",
        amount="amount",
        items="items",
        express="express",
        shop="shop",
        ordered_at=ordered,
        delivered_at=ordered + timedelta(hours=5),
        is_late="is_late",
        day=ordered.dt.date(),
    )


def _contract() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema({"amount": pa.Column(pl.Float64, pa.Check.le(1000))})


def _nothing() -> Any:
    import pandera.polars as pa

    return pa.DataFrameSchema({})


def sources() -> dict[str, SourceSpec]:
    common: dict[str, Any] = {"title": "T", "description": "D", "owner": "team:tests", "tolerated": 0.5}
    orders = SourceSpec(
        name="orders",
        read=Files(pattern=r"orders_(?P<day>\d{4}-\d{2}-\d{2})\.csv", format="csv"),
        columns={
            "who": pl.String,
            "number": pl.String,
            "amount": pl.Float64,
            "items": pl.Int64,
            "express": pl.Boolean,
            "shop": pl.String,
            "ordered_at": pl.Datetime("us", "UTC"),
            "is_late": pl.Boolean,
        },
        prepare=_orders,
        contract=_contract,
        key=("order_id",),
        daily=Daily(column="day", first=FIRST),
        **common,
    )
    wallets = SourceSpec(
        name="wallets",
        read=Files(pattern=r"wallets\.csv", format="csv"),
        columns={"owner": pl.String, "level": pl.Int64, "known_at": pl.Datetime("us", "UTC")},
        prepare=lambda raw: raw.select("owner", "level", "known_at"),
        contract=_nothing,
        key=("owner", "known_at"),
        **common,
    )
    return {"orders": orders, "wallets": wallets}


class World:
    """A home in which the platform ran for three days."""

    def __init__(self, home: Path, *, lake_uri: str = "") -> None:
        self.settings = Settings(home=home, lake_uri=lake_uri)
        self.lake = Lake(self.settings.lake)
        self.spec, self.sources = spec(), sources()
        self.pseudonyms = Pseudonyms.of(self.settings)
        bundle = home / "bundle-of-version-1"
        append(self.settings, registered("tiny", 1, bundle=str(bundle), sha256=make_bundle(bundle, spec=self.spec)))

    def land(self, *, amounts: tuple[float, float, float] = AMOUNTS, without: bool = False) -> None:
        """Lands three days of orders: three of others' a day, and one of his."""
        for place, day in enumerate(DAYS):
            rows = [f"courier-{n},A-{day:%d}-{n},{100 + n},2,true,north,{day}T10:0{n}:00Z,false" for n in range(3)]
            if not without:
                rows.append(f"{NAME},{NUMBERS[place]},{amounts[place]},1,false,south,{day}T11:00:00Z,true")
            self._land("orders", f"orders_{day}.csv", HEADER, rows)
        owners = ["courier-0", *([] if without else [NAME])]
        self._land(
            "wallets", "wallets.csv", "owner,level,known_at", [f"{each},7,2023-12-31T00:00:00Z" for each in owners]
        )

    def _land(self, source: str, name: str, header: str, rows: list[str]) -> None:
        folder = self.settings.landing / source
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([header, *rows, ""]))

    def night(self) -> None:
        """What a nightly run does with what has landed."""
        for source in self.sources.values():
            ingest(source, lake=self.lake, settings=self.settings, days=None, run_id="night")
            validate(source, lake=self.lake, reports=self.settings.reports, days=None, run_id="night")
        build_features(self.spec, lake=self.lake, days=None, run_id="night")
        self.build_online()

    def build_online(self) -> None:
        now = datetime(2024, 1, 5, tzinfo=UTC)
        build_online(self.spec, lake=self.lake, path=self.settings.online / "tiny.db", run_id="night", now=now)

    def train(self) -> None:
        """Leaves what a training run leaves."""
        folder = self.settings.candidates / "tiny" / "run-1"
        (folder / "bundle").mkdir(parents=True)
        rows = self.lake.scan("features/tiny").collect()
        rows.write_parquet(folder / "training_set.parquet")
        rows.write_parquet(folder / "bundle" / "golden.parquet")

    def records(self) -> list[Record]:
        """Two predictions for him, with shadows and outcomes, and one for somebody else."""
        made: list[Record] = []
        for number, (order, courier) in enumerate([(NUMBERS[0], NAME), (NUMBERS[1], NAME), ("A-01-0", "courier-0")]):
            hidden = self.pseudonyms.apply("courier", courier)
            request = {"order_id": order, "courier": hidden, "amount": 1.5}
            made.append(prediction(number, entity={"order_id": order}, request=request, features={"courier": hidden}))
            made.append(shadow(number))
            made.append(outcome(number))
        return [*made, outcome(7, prediction_id=None, entity={"order_id": NUMBERS[1]})]

    def serve(self, *, move: bool = True) -> None:
        """Logs what was answered, and remembers one of the answers under the client's id."""
        write_segment(self.settings.prediction_log, self.records())
        if move:
            self.move()
        self.remember("his", b'{"prediction_id":"p00000","entity":{"order_id":"' + NUMBERS[0].encode() + b'"}}')
        self.remember("another's", b'{"prediction_id":"p00002","entity":{"order_id":"A-01-0"}}')

    def move(self) -> None:
        """Moves what was logged into the lake."""
        move_log(self.settings, self.lake, models={"tiny": self.spec}, quiet_s=0)

    def remember(self, request_id: str, body: bytes) -> None:
        requests = Idempotency.of(self.settings, report=lambda _: None)
        claim = requests.begin("key-1", request_id, b"sha", model="tiny")
        assert isinstance(claim, Fresh)
        requests.finish(claim, body, 200)
        requests.close()

    def remembered(self) -> list[str]:
        requests = Idempotency.of(self.settings, report=lambda _: None)
        asked = ("his", "another's")
        found = [name for name in asked if isinstance(requests.begin("key-1", name, b"sha", model="tiny"), Stored)]
        requests.close()
        return found

    def live(self) -> None:
        """Three days, with a correction and a checkpoint: everything that a home holds of him."""
        self.land(amounts=(AMOUNTS[0] + 0.5, AMOUNTS[1], AMOUNTS[2]))
        self.night()
        self.land()
        self.night()
        self.lake.checkpoint("validated/orders")
        self.train()
        self.serve()

    def erasure(self, **key: str) -> Erasure:
        given = key or {"courier": NAME}
        return Erasure(
            person=Person.of(self.spec, given, pseudonyms=self.pseudonyms),
            models={"tiny": self.spec},
            sources=self.sources,
            settings=self.settings,
            lake=self.lake,
            pseudonyms=self.pseudonyms,
        )

    def telling(self) -> list[str]:
        """Every file of the home and the lake with a name, an order or an amount of his in it, Parquet decoded."""
        words = [word.encode() for word in (NAME, *NUMBERS, *map(str, AMOUNTS), str(AMOUNTS[0] + 0.5))]
        return sorted({name for name, content in self._contents() if any(word in content for word in words)})

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        for path in self.settings.home.rglob("*"):
            if path.is_file():
                yield from _decoded(str(path.relative_to(self.settings.home)), path.read_bytes())
        for table in self.lake.tables() if self.lake.remote else []:
            folder = self.lake.folder(table)
            for file in folder._list(""):
                yield from _decoded(f"lake/{table}/{file.path}", folder.read(file.path))


def _decoded(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if name.endswith(".parquet"):
        yield name, repr(pl.read_parquet(io.BytesIO(content)).to_dicts()).encode()
