"""Decisions: each is one event with who and why, refused where it may not be, and none twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pilotage.errors import ConfigError, LedgerConflict, NotApproved, NotReleasable
from pilotage.policy import Rollout
from pilotage.release import commands
from pilotage.release.champions import champion
from pilotage.release.events import Draft, Event
from pilotage.release.feed import plan_of
from pilotage.release.promote import promote as promoted_release
from pilotage.release.state import ApprovalRule, ModelState
from pilotage.release.tick import to_do
from pilotage.settings import Settings
from pilotage.spec import ModelSpec
from pilotage.testing.bundles import make_bundle, tiny_spec
from pilotage.testing.ledger import InMemoryLedger
from tests.unit.release.lives import draft, registered

SPEC = tiny_spec("m")
STRICT = tiny_spec("m", risk="high")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("bundles") / "good"
    return folder, make_bundle(folder, spec=SPEC)


class Desk:
    """A ledger with versions whose bundle is there, and somebody who decides."""

    def __init__(self, home: Path, bundle: tuple[Path, str], versions: int = 4, **how: Any) -> None:
        self.settings = Settings(home=home)
        self.ledger = InMemoryLedger()
        for number in range(1, versions + 1):
            self.ledger.append(registered("m", number, bundle=str(bundle[0]), sha256=bundle[1], **how))

    def do(self, command: Callable[..., ModelState], *arguments: Any, **more: Any) -> ModelState:
        signed = {"actor": "ada", "why": "because", **more}
        return command("m", *arguments, settings=self.settings, ledger=self.ledger, **signed)

    @property
    def last(self) -> Event:
        return self.ledger.events()[-1]


@pytest.fixture
def desk(tmp_path: Path, bundle: tuple[Path, str]) -> Desk:
    return Desk(tmp_path, bundle)


def stages(state: ModelState) -> list[str]:
    return [known.stage for known in state.versions.values()]


def test_a_version_goes_through_its_stages_to_champion(desk: Desk) -> None:
    desk.do(commands.promote, 1, spec=SPEC)
    assert stages(desk.do(commands.shadow, 2)) == ["champion", "shadow", "candidate", "candidate"]
    first = desk.do(commands.canary, 2, spec=SPEC)
    assert first.canary is not None
    second = desk.do(commands.canary, 2, spec=SPEC)
    assert second.canary is not None
    assert (first.canary.share, first.canary.step) == (0.05, 0)
    assert (second.canary.share, second.canary.step, second.canary.salt) == (0.25, 1, first.canary.salt)
    with pytest.raises(NotReleasable, match="no canary step 3"):
        desk.do(commands.canary, 2, spec=SPEC)
    state = desk.do(commands.promote, 2, spec=SPEC, how="rollout", evidence={"predictions": 500})
    assert stages(state) == ["retired", "champion", "candidate", "candidate"]
    assert (desk.last.actor, desk.last.cause) == ("ada", "because")
    assert desk.last.payload["evidence"] == {"predictions": 500}
    assert (desk.last.payload["how"], desk.last.payload["stage"]) == ("rollout", "canary")


@pytest.mark.parametrize("missing", [{"why": "  "}, {"actor": ""}])
@pytest.mark.parametrize("command", [commands.kill, commands.rollback, commands.end_ab])
def test_a_decision_without_who_or_why_is_refused(desk: Desk, command: Any, missing: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        desk.do(command, **missing)
    assert len(desk.ledger.events()) == 4


def test_to_decide_again_what_holds_records_nothing(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.do(commands.shadow, 2)
    desk.do(commands.canary, 3, 0.2)
    desk.do(commands.approve, 4)
    desk.do(commands.kill)
    before = len(desk.ledger.events())
    desk.do(commands.promote, 1)
    desk.do(commands.shadow, 2)
    desk.do(commands.canary, 3, 0.2)
    desk.do(commands.approve, 4, actor=" ADA ")
    desk.do(commands.kill, why="again", actor="bob")
    assert len(desk.ledger.events()) == before


def test_a_canary_begins_with_the_first_segment_and_then_takes_everybody(tmp_path: Path, bundle: Any) -> None:
    spec = tiny_spec("m", rollout=Rollout(first_segment=pl.col("amount") < 10))
    desk = Desk(tmp_path, bundle)
    desk.do(commands.promote, 1)
    first = desk.do(commands.canary, 2, spec=spec)
    assert first.canary is not None
    assert pl.Expr.deserialize(first.canary.segment.encode(), format="json").meta.eq(pl.col("amount") < 10)  # type: ignore[union-attr]
    second = desk.do(commands.canary, 2, spec=spec)
    assert second.canary is not None
    assert second.canary.segment is None


def test_one_version_after_the_other_gets_a_share(desk: Desk) -> None:
    with pytest.raises(NotReleasable, match="no champion that could answer the rest"):
        desk.do(commands.canary, 2, 0.1)
    desk.do(commands.promote, 1)
    desk.do(commands.canary, 2, 0.1)
    for command in (commands.canary, commands.start_ab):
        with pytest.raises(NotReleasable, match="version 2 has a share already"):
            desk.do(command, 3, 0.1)


def test_another_share_of_an_ab_test_draws_nobody_anew(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    first = desk.do(commands.start_ab, 2, 0.2).ab_test
    wider = desk.do(commands.start_ab, 2, 0.4).ab_test
    assert (wider.salt, wider.share) == (first.salt, 0.4)
    desk.do(commands.end_ab)
    assert desk.do(commands.start_ab, 2, 0.4).ab_test.salt != first.salt


def test_a_candidate_waits_for_an_ab_test_without_being_looked_at(desk: Desk) -> None:
    automatic = tiny_spec("m", rollout=Rollout(automatic=True))
    desk.do(commands.promote, 1)
    assert to_do(automatic, desk.do(commands.start_ab, 2)) is None
    assert to_do(automatic, desk.do(commands.end_ab)) == "version 4 is to begin its rollout"


def test_an_ab_test_ends_with_all_traffic_at_the_champion(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    running = desk.do(commands.start_ab, 2)
    assert running.ab_test is not None
    assert (running.ab_test.share, running.ab_test.against, running.canary) == (0.5, 1, None)
    ended = desk.do(commands.end_ab, evidence={"effect": 0.1})
    assert (ended.ab_test, stages(ended)[1]) == (None, "candidate")
    with pytest.raises(NotReleasable, match="No A/B test"):
        desk.do(commands.end_ab)


def test_high_risk_needs_somebody_elses_approval_before_traffic_and_says_whose(tmp_path: Path, bundle: Any) -> None:
    desk = Desk(tmp_path, bundle, by="ada", rule=ApprovalRule.of(STRICT))
    assert stages(desk.do(commands.shadow, 2))[1] == "shadow"
    # The rule that it was registered with, where no spec is at hand.
    with pytest.raises(NotApproved, match=r"version 1 needs 1 more approval .*anybody but ada") as caught:
        desk.do(commands.promote, 1)
    assert caught.value.fix == "pilotage approve m 1 --why …"
    with pytest.raises(NotApproved, match="Ada may not approve m version 1"):
        desk.do(commands.approve, 1, actor="Ada", spec=STRICT)
    desk.do(commands.approve, 1, actor="bob", spec=STRICT)
    assert desk.do(commands.promote, 1, spec=STRICT).champion is not None
    with pytest.raises(NotApproved):
        desk.do(commands.canary, 2, 0.1, spec=STRICT)
    with pytest.raises(NotApproved):
        desk.do(commands.start_ab, 2, spec=STRICT)


def test_where_a_spec_names_approvers_only_they_count_and_each_once(tmp_path: Path, bundle: Any) -> None:
    spec = tiny_spec("m", rollout=Rollout(approvals=2, approvers=("ada", "bob")))
    desk = Desk(tmp_path, bundle, by="ada")
    desk.do(commands.approve, 1, actor="cleo")
    desk.do(commands.approve, 1, actor="ada", spec=spec)
    with pytest.raises(NotApproved, match=r"needs 1 more approval .*approved by: ada\).*May approve: ada or bob"):
        desk.do(commands.promote, 1, spec=spec)
    desk.do(commands.approve, 1, actor="bob", spec=spec)
    assert desk.do(commands.promote, 1, spec=spec).champion is not None


def test_what_was_rolled_back_is_approved_anew_before_it_answers_again(tmp_path: Path, bundle: Any) -> None:
    desk = Desk(tmp_path, bundle, rule=ApprovalRule.of(STRICT))
    for number in (1, 2):
        desk.do(commands.approve, number, spec=STRICT)
        desk.do(commands.promote, number, spec=STRICT)
    state = desk.do(commands.rollback)
    assert (stages(state)[:2], desk.last.payload["to"]) == (["champion", "rolled_back"], 1)
    with pytest.raises(NotApproved):
        desk.do(commands.promote, 2, spec=STRICT)


def test_rollback_takes_back_what_was_released_last_then_the_champion(desk: Desk) -> None:
    for number in (1, 2):
        desk.do(commands.promote, number)
    desk.do(commands.canary, 3, 0.1)
    assert stages(desk.do(commands.rollback)) == ["retired", "champion", "rolled_back", "candidate"]
    assert desk.last.payload == {"to": None}
    assert stages(desk.do(commands.rollback)) == ["champion", "rolled_back", "rolled_back", "candidate"]
    with pytest.raises(NotReleasable, match="no earlier champion to go back to") as said:
        desk.do(commands.rollback)
    assert said.value.fix.startswith("pilotage rollback m --to VERSION --why … (one of 2); or: pilotage kill m --why")


def test_rollback_of_a_version_that_lost_its_traffic_already_takes_back_nothing_else(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.do(commands.promote, number)
    desk.do(commands.rollback, version=3)
    with pytest.raises(NotReleasable, match="its stage is rolled back"):
        desk.do(commands.rollback, version=3)
    assert champion("m", settings=desk.settings, ledger=desk.ledger).version == 2  # type: ignore[union-attr]


def test_rollback_goes_to_any_earlier_version_and_ends_the_canary(desk: Desk) -> None:
    for number in (1, 3):
        desk.do(commands.promote, number)
    desk.do(commands.canary, 4, 0.1)
    state = desk.do(commands.rollback, 2)
    assert stages(state) == ["retired", "champion", "rolled_back", "candidate"]
    assert (state.challenger, plan_of(state).previous.version) == (None, 1)  # type: ignore[union-attr]
    with pytest.raises(NotReleasable, match="newer and was never champion"):
        desk.do(commands.rollback, 4)
    desk.do(commands.reject, 4)
    for to, wrong in ((4, "it was rejected"), (2, "it answers already"), (9, "there is none")):
        with pytest.raises(NotReleasable, match=f"can't be rolled back from version 2 to {to}: {wrong}") as said:
            desk.do(commands.rollback, to)
        assert "(one of 1, 3)" in said.value.fix


def test_a_version_whose_bundle_is_damaged_gets_no_traffic_and_rollback_goes_past_it(
    tmp_path: Path, bundle: tuple[Path, str]
) -> None:
    desk = Desk(tmp_path, bundle, versions=1)
    for number in (2, 3):
        damaged = tmp_path / f"bundle-{number}"
        sha256 = make_bundle(damaged, spec=SPEC, seed=number)
        desk.ledger.append(registered("m", number, bundle=str(damaged), sha256=sha256))
        desk.do(commands.promote, 1)
        desk.do(commands.promote, number)
    (tmp_path / "bundle-2" / "model.txt").write_text("tree")
    state = desk.do(commands.rollback)
    assert state.champion is not None
    assert state.champion.version == 1
    before = len(desk.ledger.events())
    for command, arguments, purpose in (
        (commands.promote, (2,), "become champion"),
        (commands.canary, (2, 0.1), "get traffic"),
        (commands.shadow, (2,), "become a shadow"),
        (commands.rollback, (2,), "answer instead"),
    ):
        with pytest.raises(NotReleasable, match=f"version 2 may not {purpose}: .*model.txt"):
            desk.do(command, *arguments)
    assert len(desk.ledger.events()) == before


def test_rollback_goes_to_a_bundle_that_only_the_service_still_has(tmp_path: Path, bundle: tuple[Path, str]) -> None:
    desk = Desk(tmp_path, bundle, versions=1)
    desk.do(commands.promote, 1)
    lost = tmp_path / "lost"
    sha256 = make_bundle(lost, spec=SPEC, seed=5)
    desk.ledger.append(registered("m", 2, bundle=str(lost), sha256=sha256))
    desk.do(commands.promote, 2)
    desk.do(commands.promote, 1)
    kept = desk.settings.bundles / "m" / "2"
    kept.parent.mkdir(parents=True)
    lost.rename(kept)
    with pytest.raises(NotReleasable, match="may not become champion"):
        desk.do(commands.promote, 2)
    state = desk.do(commands.rollback)
    assert state.champion is not None
    assert (state.champion.version, desk.last.payload["to"]) == (2, 2)


def test_a_killed_model_answers_nobody_until_it_is_resumed(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    killed = desk.do(commands.kill, why="It discriminates.")
    assert (plan_of(killed).assignments(), plan_of(killed).killed) == ((), "It discriminates.")
    # What is decided meanwhile holds after it.
    desk.do(commands.promote, 2)
    resumed = desk.do(commands.resume)
    assert plan_of(resumed).champion.version == 2  # type: ignore[union-attr]
    with pytest.raises(NotReleasable, match="it is not killed"):
        desk.do(commands.resume)


def test_rejected_is_rejected_until_its_rollout_begins_again(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    desk.do(commands.approve, 2)
    desk.do(commands.canary, 2, 0.1)
    assert desk.do(commands.reject, 2).challenger is None
    for command, arguments in ((commands.promote, (2,)), (commands.canary, (2, 0.1)), (commands.approve, (2,))):
        with pytest.raises(NotReleasable, match="its stage is rejected") as caught:
            desk.do(command, *arguments)
        assert caught.value.fix.startswith("pilotage shadow m 2")
    again = desk.do(commands.shadow, 2)
    assert (again.versions[2].stage, again.versions[2].approvals) == ("shadow", ())
    with pytest.raises(NotReleasable, match="its stage is champion"):
        desk.do(commands.reject, 1)


class Interrupted(InMemoryLedger):
    """Somebody is faster, the first time."""

    other: Draft | None = None

    def append(self, draft: Draft, *, expected: int | None = None) -> Any:
        if self.other is not None:
            other, self.other = self.other, None
            super().append(other)
        return super().append(draft, expected=expected)


@pytest.fixture
def interrupted(desk: Desk) -> Callable[[Draft], Desk]:
    def make(other: Draft) -> Desk:
        ledger = Interrupted()
        for event in desk.ledger.events():
            ledger.append(Draft(**{name: getattr(event, name) for name in Draft.__slots__}))
        ledger.other = other
        desk.ledger = ledger
        return desk

    return make


def test_who_comes_second_is_told_and_changes_nothing(interrupted: Callable[[Draft], Desk]) -> None:
    desk = interrupted(draft("promoted", 2))
    with pytest.raises(LedgerConflict, match="Somebody else decided about m"):
        desk.do(commands.promote, 1)
    assert champion("m", settings=desk.settings, ledger=desk.ledger).version == 2  # type: ignore[union-attr]


def test_an_event_about_another_model_does_not_stop_a_decision(interrupted: Callable[[Draft], Desk]) -> None:
    desk = interrupted(registered("another", 1))
    assert desk.do(commands.promote, 1).champion is not None


def test_a_kill_holds_whatever_else_is_decided_at_that_moment(interrupted: Callable[[Draft], Desk]) -> None:
    desk = interrupted(draft("promoted", 2))
    assert desk.do(commands.kill).killed is not None
    desk = interrupted(draft("killed"))
    assert desk.do(commands.kill).killed is not None


def test_a_decision_on_evidence_about_an_older_state_is_refused(desk: Desk) -> None:
    seen = desk.do(commands.promote, 1).sequence
    desk.do(commands.shadow, 2)
    with pytest.raises(LedgerConflict):
        desk.do(commands.promote, 2, seen=seen)


def test_promote_of_the_release_room_gives_the_release(desk: Desk) -> None:
    release = desk_release(desk, 2)
    assert (release.version, release.actor, release.why) == (2, "ada", "because")
    assert desk_release(desk, 2) == release


def desk_release(desk: Desk, version: int) -> Any:
    return promoted_release("m", version, settings=desk.settings, actor="ada", why="because", ledger=desk.ledger)


def test_the_first_stage_is_the_one_that_the_spec_declares(desk: Desk) -> None:
    desk.do(commands.promote, 1)
    at_once: ModelSpec = tiny_spec("m", rollout=Rollout(shadow=None))
    assert desk.do(commands.begin, 2, spec=SPEC).versions[2].stage == "shadow"
    assert desk.do(commands.begin, 3, spec=at_once).canary.version == 3  # type: ignore[union-attr]
