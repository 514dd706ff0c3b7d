"""Row features without Polars: the same serialised expressions as plain Python over one row's values.

Polars needs 0.2 to 0.3 ms for one row, whatever is computed; the Python that is made here needs microseconds, and gives
the same bits as Polars gives for a column of rows. What is not proved to is left to Polars, feature by feature.
"""

from pilotage.features.compiled.row import CompiledRow as CompiledRow
