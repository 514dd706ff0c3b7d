"""A step that fails says first what is wrong, where and what to do; Dagster's stack traces come after."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from definitions import build_defs
from pilotage.errors import TrainingError
from pilotage.settings import PROJECT
from resources.failures import in_a_line, plainly, what_failed


def plain(context: dg.AssetExecutionContext, boom: Callable[[], None]) -> None:
    boom()


def made_of_events(context: dg.AssetExecutionContext, boom: Callable[[], None]) -> Iterator[dg.MaterializeResult]:
    boom()
    yield dg.MaterializeResult()


def failure(body: Callable[..., Any], boom: Callable[[], None]) -> tuple[Any, str]:
    """The failure event of a run of one asset, and what an alarm says of it."""

    @plainly
    def step(context: dg.AssetExecutionContext) -> Any:
        return body(context, boom)

    @plainly
    def events(context: dg.AssetExecutionContext) -> Any:
        yield from body(context, boom)

    asset = dg.asset(name="made")(events if body is made_of_events else step)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, raise_on_error=False)
        [event] = [each for each in result.all_events if each.event_type_value == "STEP_FAILURE"]
        return event.step_failure_data, what_failed(instance, result.run_id)


def known() -> None:
    raise TrainingError("No row of tiny has a label.", fix="Land labelled days.")


SPACE: dict[str, Any] = {}
exec(
    compile("def boom():\n    rows = []\n    rows[7]\n", str(PROJECT / "assets" / "models" / "parcels.py"), "exec"),
    SPACE,
)


@pytest.mark.parametrize("body", [plain, made_of_events])
def test_an_error_of_ours_comes_first_with_its_fix(body: Callable[..., Any]) -> None:
    data, alarm = failure(body, known)
    words = "TrainingError: No row of tiny has a label. Fix: Land labelled days."
    assert data.user_failure_data.description == words
    assert data.user_failure_data.metadata["fix"].value == "Land labelled days."
    assert data.error.message.startswith(f"dagster._core.definitions.events.Failure: {words}")
    assert "TrainingError" in data.error.cause.cls_name
    assert alarm.strip() == f"made: {words}"


@pytest.mark.parametrize("body", [plain, made_of_events])
def test_an_error_that_nobody_foresaw_names_the_line_of_the_file_that_somebody_wrote(body: Callable[..., Any]) -> None:
    data, alarm = failure(body, SPACE["boom"])
    words = "IndexError: list index out of range Fix: Look at line 3 of assets/models/parcels.py"
    assert data.user_failure_data.description.startswith(words)
    assert alarm.startswith(f"made: {words}")


def test_a_failure_that_is_in_plain_words_already_stays_as_it_is() -> None:
    def refuse() -> None:
        raise dg.Failure("The labels may not be learned from.", metadata={"defects": "swapped"})

    data, alarm = failure(plain, refuse)
    assert data.user_failure_data.description == "The labels may not be learned from."
    assert list(data.user_failure_data.metadata) == ["defects"]
    assert alarm.strip() == "made: The labels may not be learned from."


def test_every_step_of_the_platform_speaks_so() -> None:
    steps = {
        node.name: node.compute_fn.decorated_fn
        for job in build_defs().resolve_all_job_defs()
        for node in job.all_node_defs
        if isinstance(node, dg.OpDefinition)
    }
    assert len(steps) > 20
    assert [name for name, step in steps.items() if step.__code__.co_filename != plainly.__code__.co_filename] == []


def test_an_alarm_shortens_what_is_wrong_and_keeps_the_fix() -> None:
    told = in_a_line(f"pilotage.errors.TrainingError: {'very ' * 200}bad. Fix: Land labelled days.")
    assert told.startswith("TrainingError: very very")
    assert told.endswith("… Fix: Land labelled days.")
    assert len(told) < 420
    assert in_a_line("x" * 900) == "x" * 400 + "…"
