"""The service of ``flight_delay`` alone."""

from assets.models.flight_delay import MODEL
from serving.build import build

FlightService = build({MODEL.name: MODEL}, name="FlightService")
