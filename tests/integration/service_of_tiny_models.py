"""The service that the tests start: two small models, one with as-of features."""

from pilotage.testing.bundles import tiny_spec
from serving.build import build

SPECS = [tiny_spec("tiny"), tiny_spec("tiny_state", with_state=True)]

TinyService = build({spec.name: spec for spec in SPECS}, name="TinyService")
