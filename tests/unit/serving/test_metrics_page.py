"""The page of metrics follows what a worker does: each number is asked of whoever keeps it."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from pilotage.runtime.access.caller import ROLES, Limit
from pilotage.runtime.access.keyfile import create_key
from pilotage.testing.bundles import ORDER, tiny_spec
from tests.unit.serving.hosted import Hosted, hosted


def numbers(service: Hosted, *names: str) -> list[float]:
    """The sums of metrics over their labels."""
    families = text_string_to_metric_families(service.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return [sum(sample.value for sample in samples if sample.name == name) for name in names]


def test_what_clients_do_moves_its_numbers(tmp_path: Path) -> None:
    with hosted(tmp_path, tiny_spec("tiny")) as service:
        limit = Limit(per_second=0.01, burst=1)
        _, key = create_key(service.settings.api_keys, "all", roles=ROLES, limit=None)
        _, slow = create_key(service.settings.api_keys, "slow", roles=["predict"], limit=limit)
        service.core.ring.refresh()
        headers = {"authorization": f"Bearer {key}"}

        for amount in (1.0, 1.0, 1.0, 2.0):
            assert service.predict(headers=headers, amount=amount).status_code == 200
        hit_rate = ("pilotage_cache_hits_total", "pilotage_cache_misses_total")
        assert numbers(service, *hit_rate, "pilotage_predictions_total") == [2, 2, 4]
        assert numbers(service, "pilotage_log_unsealed_bytes") != [0]

        service.post("/tiny/predict?explain=true", json=ORDER, headers=headers)
        told = [{"prediction_id": "p", "label": True}, {"prediction_id": "q", "label": True}]
        service.post("/tiny/outcomes", json={"outcomes": told}, headers=headers)
        assert numbers(service, "pilotage_explanations_total", "pilotage_outcomes_total") == [1, 2]

        service.predict()
        service.post("/admin/tiny/kill", json={"why": "x"}, headers={"authorization": f"Bearer {slow}"})
        for _ in range(3):
            service.predict(headers={"authorization": f"Bearer {slow}"})
        assert numbers(service, "pilotage_auth_failures_total", "pilotage_rate_limited_total") == [2, 2]

        assert numbers(service, "pilotage_killed", "pilotage_versions") == [0, 1]
        service.post("/admin/tiny/kill", json={"why": "x"}, headers=headers)
        assert numbers(service, "pilotage_killed", "pilotage_versions") == [1, 0]
