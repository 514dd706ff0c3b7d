"""Who is erased of a source, so that no ingest brings them back: from a file that is landed still, a corrected one, or
the last second of a table's cursor.

Nobody is named: the lake's table ``erased/<source>`` holds pseudonyms, which only the platform's key can make. Who
takes rows out of the tables is ``erasing.py``; whom, is decided in ``governance/erasure.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from pilotage.data.contract import prepared_rows
from pilotage.data.lake import Lake
from pilotage.data.source import SourceSpec
from pilotage.errors import ConfigError
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings

Forgets = Callable[[pl.DataFrame], pl.DataFrame]
"""Raw rows → those of nobody who is erased."""

_APP = "erasure"
_SCHEMA = {"columns": pl.String(), "pseudonym": pl.String(), "key": pl.String(), "at": pl.Datetime("us", "UTC")}
"""``columns``: those of the prepared rows that identify, a JSON list. ``key``: stands for the key of the pseudonyms."""


def table_of(source: str) -> str:
    return f"erased/{source}"


def keep_out(source: str, whom: Mapping[str, Any], *, lake: Lake, pseudonyms: Pseudonyms) -> None:
    """Has every later ingest of a source leave out the rows of somebody. Safe to repeat.

    Args:
        source: The source.
        whom: Column of its prepared rows → value.
        lake: Where the list is.
        pseudonyms: Stand for them.
    """
    table, columns = table_of(source), sorted(whom)
    row = {
        "columns": json.dumps(columns),
        "pseudonym": _pseudonym([whom[name] for name in columns], pseudonyms),
        "key": _key(pseudonyms),
        "at": datetime.now(UTC),
    }
    before = lake.sequence(table, _APP)
    if lake.exists(table) and row["pseudonym"] in _listed(lake, table)["pseudonym"].to_list():
        return
    sequence = 0 if before is None else before + 1
    frame = pl.DataFrame([row], schema=_SCHEMA)
    lake.append(table, frame, note={"pilotage": "erasure"}, app_id=_APP, sequence=sequence, after=before)


def forgets(spec: SourceSpec, *, lake: Lake, settings: Settings) -> Forgets:
    """What an ingest of a source leaves out.

    Raises:
        ConfigError: Somebody is listed, and not by the key of the pseudonyms that is here: none would be recognised.
    """
    table = table_of(spec.name)
    if not lake.exists(table):
        return lambda raw: raw
    listed, pseudonyms = _listed(lake, table), Pseudonyms.of(settings)
    if set(listed["key"]) != {_key(pseudonyms)}:
        raise ConfigError(
            f"Who was erased of {spec.name} can't be recognised: they are listed by another key of pseudonyms.",
            fix=f"Put the key of then at {settings.pseudonym_key}, or set PILOTAGE_PSEUDONYM_KEY_FILE.",
            table=table,
        )
    whom = {
        tuple(json.loads(columns)): set(some["pseudonym"])
        for (columns,), some in listed.group_by("columns", maintain_order=True)
    }

    def forget(raw: pl.DataFrame) -> pl.DataFrame:
        if raw.is_empty():
            return raw
        there = raw if "day" in raw.columns else raw.with_columns(pl.lit(None, pl.Date).alias("day"))
        rows = prepared_rows(spec, there)
        for columns, pseudonymous in whom.items():
            keys = rows.select(columns).iter_rows()
            others = pl.Series(
                [_pseudonym(list(key), pseudonyms) not in pseudonymous for key in keys], dtype=pl.Boolean
            )
            raw, rows = raw.filter(others), rows.filter(others)
        return raw

    return forget


def _listed(lake: Lake, table: str) -> pl.DataFrame:
    return lake.scan(table).collect()


def _pseudonym(values: list[Any], pseudonyms: Pseudonyms) -> str:
    return str(pseudonyms.apply("erased", [_plain(value) for value in values]))


def _plain(value: Any) -> Any:
    """7.0 is 7, as in a single value's pseudonym."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _key(pseudonyms: Pseudonyms) -> str:
    return str(pseudonyms.apply("erased", "whose key this is"))
