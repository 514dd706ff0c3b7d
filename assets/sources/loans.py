"""Mortgage applications and how they were decided, read from the lender's database as they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pilotage.data.source import SourceSpec, SqlTable

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

    return pa.DataFrameSchema(
        {
            "loan_id": pa.Column(pl.Int64, pa.Check.ge(1)),
            "approve": pa.Column(pl.Int64, pa.Check.isin([0, 1])),
        }
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
)
