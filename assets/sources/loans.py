"""Mortgage applications and how they were decided, read from the lender's database as they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import Expectation, SourceSpec, SqlTable

if TYPE_CHECKING:
    import pandera.polars as pa

NUMBERS = {
    "loan_amount": "loanamt",
    "price": "price",
    "appraised_value": "apr",
    "applicant_income": "atotinc",
    "coapplicant_income": "cototinc",
    "housing_expense": "hrat",
    "obligations": "obrat",
    "net_worth": "netw",
    "liquid_assets": "liq",
    "term_months": "term",
    "credit_lines": "lines",
    "unemployment": "unem",
}
"""Our name → the database's. Thousands of USD, USD a month, percent and months, as in the model's request."""

CODES = {
    "mortgage_history": "mortg",
    "consumer_history": "cons",
    "meets_guidelines": "gdlin",
    "public_record": "pubrec",
    "self_employed": "self",
    "unverifiable": "unver",
    "mortgage_insurance_sought": "inss",
    "cosigner": "cosign",
    "gift": "gift",
    "approve": "approve",
}

PROTECTED = ("black", "hispan", "white", "male", "married", "old")
"""Never a feature; read so that fairness can be measured."""


def prepare(delivered: pl.LazyFrame) -> pl.LazyFrame:
    """One row per application. Sentinels such as 999 stay as they are: the contract names them, row by row."""
    return delivered.select(
        "loan_id",
        *(pl.col(theirs).alias(ours) for ours, theirs in (NUMBERS | CODES).items()),
        *PROTECTED,
    )


def contract() -> pa.DataFrameSchema:
    import pandera.polars as pa

    # 666 and 999,999 stand for "not known" in several columns, and 1,000,000 for "a lot" in liquid assets: no number to
    # learn from. The upper bounds lie far above the largest real value and far below the sentinels.
    upper = {
        "loan_amount": 5_000.0, "price": 5_000.0, "appraised_value": 10_000.0, "applicant_income": 200_000.0,
        "coapplicant_income": 200_000.0, "housing_expense": 100.0, "obligations": 100.0, "liquid_assets": 50_000.0,
        "term_months": 480.0, "credit_lines": 200.0, "unemployment": 100.0,
    }  # fmt: skip
    flags = [name for name in CODES if name not in ("mortgage_history", "consumer_history")]
    return pa.DataFrameSchema(
        {
            "loan_id": pa.Column(pl.Int64, pa.Check.ge(1)),
            **{name: pa.Column(pl.Float64, pa.Check.in_range(0.0, high)) for name, high in upper.items()},
            "net_worth": pa.Column(pl.Float64, pa.Check.in_range(-100_000.0, 100_000.0)),
            "mortgage_history": pa.Column(pl.Int64, pa.Check.in_range(1, 4)),
            "consumer_history": pa.Column(pl.Int64, pa.Check.in_range(1, 6)),
            **{name: pa.Column(pl.Int64, pa.Check.isin([0, 1])) for name in flags},
            **{name: pa.Column(pl.Int64, pa.Check.isin([0, 1]), nullable=True) for name in PROTECTED},
        }
    )


EXPECTATIONS = (
    Expectation(name="applications", sql="count(*)", low=1, severity="block", why="There is nothing to learn from."),
    Expectation(
        name="approved",
        sql="avg(approve)",
        low=0.5,
        high=0.99,
        severity="warn",
        why="Seven in eight applications were approved; a share far from it means another population.",
    ),
    Expectation(
        name="mean_income",
        sql="avg(applicant_income)",
        low=2000,
        high=12_000,
        severity="warn",
        why="Some 5,200 USD a month; a factor of a thousand means another unit.",
    ),
    Expectation(
        name="mean_loan",
        sql="avg(loan_amount)",
        low=50,
        high=400,
        severity="warn",
        why="Some 143 thousand USD; a factor of a thousand means another unit.",
    ),
)


SOURCE = SourceSpec(
    name="loans",
    title="Mortgage applications",
    description="Applications for a mortgage in Boston, 1990, with the lender's decision.",
    owner="team:credit-risk",
    read=SqlTable(url_setting="loans", table="applications", cursor="loan_id"),
    columns={
        "loan_id": pl.Int64,
        **dict.fromkeys(NUMBERS.values(), pl.Float64),
        **dict.fromkeys(CODES.values(), pl.Int64),
        **dict.fromkeys(PROTECTED, pl.Int64),
    },
    prepare=prepare,
    contract=contract,
    key=("loan_id",),
    expectations=EXPECTATIONS,
)
