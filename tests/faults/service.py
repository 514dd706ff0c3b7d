"""The service that is broken."""

from serving.build import build
from tests.faults.models import SPECS

FaultedService = build(SPECS, name="FaultedService")
