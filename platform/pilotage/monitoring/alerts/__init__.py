"""Alerts: found by anybody, kept in one book, told to the right people, until somebody looks after them.

``Alert`` is what is raised, ``AlertBook`` where; ``watches/`` are the platform's own eyes. ``deliver`` tells people.
"""

from pilotage.monitoring.alerts.alarm import Alarm
from pilotage.monitoring.alerts.alert import KINDS, TIERS, Alert, Tier
from pilotage.monitoring.alerts.book import AlertBook
from pilotage.monitoring.alerts.delivery import Delivered, deliver

__all__ = ["KINDS", "TIERS", "Alarm", "Alert", "AlertBook", "Delivered", "Tier", "deliver"]
