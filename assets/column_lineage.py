"""Which column of which asset a feature is made of: read off the declaration, so it can't be out of date."""

from __future__ import annotations

import dagster as dg

from assets.ingestion import validated_key
from pilotage.expressions import columns_of
from pilotage.spec import Latest, ModelSpec


def feature_lineage(spec: ModelSpec) -> dg.TableColumnLineage:
    """Feature → the validated columns that its expression and its as-of columns read."""
    origins = {
        field.name: [dg.TableColumnDep(validated_key(spec.source), field.name)] for field in spec.request
    } | _asof_origins(spec)
    return dg.TableColumnLineage(
        {
            # Two as-of columns may come from one column of a source: Dagster wants each named once.
            feature.name: list(
                dict.fromkeys(dep for column in sorted(columns_of(feature.expr)) for dep in origins[column])
            )
            for feature in spec.features
        }
    )


def _asof_origins(spec: ModelSpec) -> dict[str, list[dg.TableColumnDep]]:
    origins: dict[str, list[dg.TableColumnDep]] = {}
    for item in spec.asof:
        key = validated_key(item.source)
        if isinstance(item, Latest):
            origins |= {f"{item.name}_{column}": [dg.TableColumnDep(key, column)] for column in item.columns}
        else:
            read = columns_of(item.value) if item.value is not None else {item.known_at}
            read |= columns_of(item.where) if item.where is not None else set()
            origins[item.name] = [dg.TableColumnDep(key, column) for column in sorted(read)]
    return origins
