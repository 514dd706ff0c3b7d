"""Would this mortgage application be approved? High risk: it advises a loan officer and never decides alone."""

import polars as pl

from pilotage.spec import (
    CostMatrix,
    Fallback,
    Feature,
    Gate,
    HashSplit,
    Kpi,
    Label,
    LightGBM,
    ModelSpec,
    RequestField,
    Retraining,
    Serving,
)


def number(name: str, description: str, example: float, *, minimum: float | None = 0) -> RequestField:
    return RequestField(name=name, dtype=pl.Float64, description=description, example=example, minimum=minimum)


def flag(name: str, description: str, example: int = 0) -> RequestField:
    return RequestField(
        name=name, dtype=pl.Int64, description=f"1 if {description}, else 0.", example=example, minimum=0, maximum=1
    )


MODEL = ModelSpec(
    name="loan_approval",
    title="Approval of mortgage applications",
    objective="Tell a loan officer how an application compares with those that were approved.",
    owner="team:credit-risk",
    risk="high",
    intended_use="A second opinion for the officer who decides. Never a decision by itself.",
    limitations=(
        "1,989 applications in Boston in 1990: far from today's market, and from any other city.",
        "It repeats past decisions, with whatever bias they had; approval rates differ between groups.",
        "Whether a loan was repaid is not in the data: 'approved' is not 'good'.",
    ),
    kpi=Kpi(
        name="Cost of wrong advice",
        unit="officer hours per application",
        # A wrongly encouraged application costs a full review (6 h); a wrongly discouraged one an appeal (4 h).
        cost=CostMatrix(true_positive=1, false_positive=6, true_negative=1, false_negative=4),
        sql="SELECT avg(cost) AS value FROM labelled",
        # Without advice every application is encouraged.
        baseline="SELECT avg(CASE WHEN label THEN 1 ELSE 6 END) AS value FROM labelled",
        target="SELECT avg(CASE WHEN label THEN 1 ELSE 6 END) AS value FROM labelled",
    ),
    source="loans",
    entity=("loan_id",),
    event_time=None,
    predicts_at=None,
    request=(
        RequestField(name="loan_id", dtype=pl.Int64, description="Number of the application.", example=17, minimum=0),
        number("loan_amount", "Amount asked for, thousands of USD.", 128),
        number("price", "Purchase price, thousands of USD.", 160),
        number("appraised_value", "Appraised value, thousands of USD.", 175),
        number("applicant_income", "Monthly income of the applicant, USD.", 4583),
        number("coapplicant_income", "Monthly income of the co-applicant, USD.", 1508),
        number("housing_expense", "Housing expense, share of income, percent.", 22.5),
        number("obligations", "All obligations, share of income, percent.", 34.1),
        number("net_worth", "Net worth, thousands of USD.", 847, minimum=None),
        number("liquid_assets", "Liquid assets, thousands of USD.", 52),
        number("term_months", "Term of the loan, months.", 360),
        number("credit_lines", "Credit lines on the reports.", 19),
        number("unemployment", "Unemployment rate of the applicant's industry, percent.", 3.2),
        RequestField(
            name="mortgage_history",
            dtype=pl.Int64,
            minimum=1,
            maximum=4,
            example=2,
            description="Mortgage payments: 1 none late, 2 no history, 3 one or two late, 4 more.",
        ),
        RequestField(
            name="consumer_history",
            dtype=pl.Int64,
            minimum=1,
            maximum=6,
            example=2,
            description="Consumer credit: 1 none late … 6 serious delinquencies.",
        ),
        flag("meets_guidelines", "the credit history meets the lender's guidelines", 1),
        flag("public_record", "the applicant filed for bankruptcy"),
        flag("self_employed", "the applicant is self-employed"),
        flag("unverifiable", "some information could not be verified"),
        flag("mortgage_insurance_sought", "private mortgage insurance was sought"),
        flag("cosigner", "somebody co-signs"),
        flag("gift", "part of the down payment is a gift"),
    ),
    label=Label(
        name="approved", expr=pl.col("approve") == 1, known_at=None, description="The application was approved."
    ),
    features=(
        Feature(
            name="loan_to_value",
            expr=pl.col("loan_amount") / pl.col("appraised_value"),
            description="Amount asked for against the appraised value",
            advice="Ask for a smaller loan, or bring a larger down payment.",
        ),
        Feature(
            name="loan_to_price",
            expr=pl.col("loan_amount") / pl.col("price"),
            description="Amount asked for against the price",
            advice="Ask for a smaller loan, or bring a larger down payment.",
        ),
        Feature(
            name="income",
            expr=pl.col("applicant_income") + pl.col("coapplicant_income"),
            description="Monthly income of all applicants",
            unit="USD",
        ),
        Feature(
            name="loan_to_income",
            expr=pl.col("loan_amount") * 1000 / (pl.col("applicant_income") + pl.col("coapplicant_income") + 1.0),
            description="Amount asked for against monthly income",
            advice="Ask for a smaller loan, or apply together with somebody who has an income.",
        ),
        Feature(
            name="housing_expense",
            expr=pl.col("housing_expense"),
            description="Housing expense of income",
            unit="percent",
            advice="Ask for a smaller loan or a longer term, so that the monthly payment falls.",
        ),
        Feature(
            name="obligations",
            expr=pl.col("obligations"),
            description="All obligations of income",
            unit="percent",
            advice="Pay back other debts before you apply again.",
        ),
        Feature(name="net_worth", expr=pl.col("net_worth"), description="Net worth", unit="thousand USD"),
        Feature(
            name="liquid_assets",
            expr=pl.col("liquid_assets"),
            description="Liquid assets",
            unit="thousand USD",
            advice="Show further savings, if there are any that the application leaves out.",
        ),
        Feature(name="term_months", expr=pl.col("term_months"), description="Term of the loan", unit="months"),
        Feature(name="credit_lines", expr=pl.col("credit_lines"), description="Credit lines on the reports"),
        Feature(
            name="unemployment", expr=pl.col("unemployment"), description="Unemployment in the industry", unit="percent"
        ),
        Feature(
            name="mortgage_history",
            expr=pl.col("mortgage_history"),
            description="Mortgage payment history",
            advice="Check the credit report for mistakes, and pay on time for a year.",
        ),
        Feature(
            name="consumer_history",
            expr=pl.col("consumer_history"),
            description="Consumer credit history",
            advice="Check the credit report for mistakes, and pay on time for a year.",
        ),
        Feature(
            name="meets_guidelines",
            expr=pl.col("meets_guidelines"),
            description="Credit history meets the guidelines",
            advice="Ask the officer which guideline is not met.",
        ),
        Feature(name="public_record", expr=pl.col("public_record"), description="Bankruptcy on record"),
        Feature(name="self_employed", expr=pl.col("self_employed"), description="Self-employed"),
        Feature(
            name="unverifiable",
            expr=pl.col("unverifiable"),
            description="Unverifiable information",
            advice="Hand in the documents that could not be verified.",
        ),
        Feature(
            name="mortgage_insurance_sought",
            expr=pl.col("mortgage_insurance_sought"),
            description="Mortgage insurance was sought",
        ),
        Feature(name="cosigner", expr=pl.col("cosigner"), description="Somebody co-signs"),
        Feature(name="gift", expr=pl.col("gift"), description="Down payment is partly a gift"),
    ),
    split=HashSplit(calibration=0.15, holdout=0.25, folds=5),
    trainer=LightGBM(
        rounds=80,
        params={"learning_rate": 0.05, "num_leaves": 7, "min_data_in_leaf": 20, "lambda_l2": 5.0},
        calibration="sigmoid",
    ),
    gate=Gate(
        # The lender's own guidelines rank with an AUC of 0.74 to 0.80, a model with 0.83 to 0.90.
        at_least={"auc": 0.78},
        # On some 500 applications in ten bins, chance alone makes 0.03.
        at_most={"calibration_error": 0.08},
        beat_baselines_in="log_loss",
        not_worse_in=("log_loss", "brier", "auc"),
        margin=0.01,
    ),
    fallback=Fallback(
        rule=pl.when(pl.col("meets_guidelines") == 1).then(0.93).otherwise(0.35),
        reason="The lender's own guidelines on credit history decide most applications.",
    ),
    slices=("self_employed", "mortgage_history"),
    protected=("black", "hispan", "white", "male", "married", "old"),
    # Around the threshold of 0.625 the advice could as well be the other one: the officer decides without it.
    serving=Serving(refer_between=(0.5, 0.75)),
    retraining=Retraining(schedule="0 5 * * *"),
)
