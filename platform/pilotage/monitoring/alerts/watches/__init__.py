"""The platform's watch over itself: each looks at one thing, cheaply, and gives the alerts that it finds.

Only looks. What Dagster alone knows (its daemons, its runs, its checks) is looked at in ``sensors/heartbeat.py``.
"""

from pilotage.monitoring.alerts.watches.answers import AnswersWatch
from pilotage.monitoring.alerts.watches.data import FreshnessWatch
from pilotage.monitoring.alerts.watches.decisions import DecisionsWatch
from pilotage.monitoring.alerts.watches.look import Look, Watch, carry_out
from pilotage.monitoring.alerts.watches.machine import machine_watches

__all__ = ["AnswersWatch", "DecisionsWatch", "FreshnessWatch", "Look", "Watch", "carry_out", "machine_watches"]
