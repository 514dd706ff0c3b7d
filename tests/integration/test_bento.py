"""A bento, built from a released model by the real BentoML, and served from its store on an empty home."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest
import yaml

from pilotage.cli.bento import Built, build, name_of, store
from pilotage.cli.bento_context import closure
from pilotage.errors import BundleCorrupt, NotReleasable
from pilotage.release.feed import PlanFeed
from pilotage.release.ledger import SqlLedger
from pilotage.runtime.access.keyfile import create_key
from pilotage.runtime.baked import Baked, bake
from pilotage.runtime.bundle import read_bundle
from pilotage.runtime.plan import Plan
from pilotage.settings import PROJECT, Settings
from pilotage.testing.bundles import ORDER, make_bundle, tiny_spec
from pilotage.testing.service import release_bundle
from tests.integration.test_service import JSON

GRACE = ("--timeout-graceful-shutdown", "5")
DECLARED = """
from pilotage.testing.bundles import tiny_spec

MODEL = tiny_spec("tiny")
"""


def plans_of(settings: Settings) -> dict[str, Plan]:
    ledger = SqlLedger(settings.ledger)
    try:
        return PlanFeed(ledger)()
    finally:
        ledger.close()


def add_what_only_tests_need(context: Path) -> None:
    """The tiny model is declared by a room of the engine that no bento has."""
    for room in ("testing", "training"):
        shutil.copytree(PROJECT / "platform/pilotage" / room, context / "pilotage" / room)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bento")


@pytest.fixture(scope="module")
def settings(root: Path) -> Settings:
    """A home with two versions released, of which the second answers."""
    settings = Settings(home=root / "home")
    for version in (1, 2):
        folder = root / "registry" / str(version)
        release_bundle(settings, "tiny", folder, make_bundle(folder, seed=version), version=version)
    return settings


@pytest.fixture(scope="module")
def built(root: Path, settings: Settings) -> Built:
    declared = root / "declared"
    declared.mkdir()
    shutil.copyfile(PROJECT / "assets/models/__init__.py", declared / "__init__.py")
    (declared / "tiny.py").write_text(DECLARED)
    with pytest.MonkeyPatch.context() as environment:
        # All that it takes is installed: nothing on the PATH helps, and nothing is fetched.
        environment.setenv("PATH", "/usr/bin:/bin")
        environment.setenv("PIP_NO_INDEX", "1")
        made = build(settings, [plans_of(settings)["tiny"]], declared=declared, prepare=add_what_only_tests_need)
    # What it was made from may go.
    shutil.rmtree(declared)
    return made


@contextmanager
def serving(built: Built, settings: Settings, home: Path, **environment: str) -> Iterator[httpx.Client]:
    """``bentoml serve`` of the bento, from the store, and nothing of ours around it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTAGE_", "BENTOML_"))}
    log = home.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve", built.tag, "--host", "127.0.0.1", "--port", str(port), *GRACE],
            cwd=home.parent,
            env={
                **kept,
                "BENTOML_HOME": str(store(settings)),
                "BENTOML_DO_NOT_TRACK": "True",
                "PILOTAGE_HOME": str(home),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    family: list[psutil.Process] = []
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            _until_ready(client, process, log)
            family = psutil.Process(process.pid).children(recursive=True)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for left in psutil.wait_procs(family, timeout=10)[1]:
            left.kill()


def _until_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the bento is not ready:\n{log.read_text()[-4000:]}")


def expected(bundle: Path) -> float:
    opened = read_bundle(bundle)
    row = {**ORDER, "ordered_at": pl.Series([ORDER["ordered_at"]]).str.to_datetime(time_zone="UTC")[0]}
    frame = pl.DataFrame([row], schema=tiny_spec("tiny").request_types())
    return float(opened.score(frame)[0])


@pytest.mark.slow
def test_a_bento_answers_on_an_empty_home_with_everything_else_gone(
    root: Path, settings: Settings, built: Built, tmp_path: Path
) -> None:
    # Ledger, registry, lake: whatever it was made from.
    right = expected(root / "registry" / "2")
    hidden = root / "registry.hidden"
    (root / "registry").rename(hidden)
    (settings.home / "ledger.db").rename(root / "ledger.hidden")
    home = tmp_path / "empty"
    try:
        with serving(built, settings, home) as client:
            answer = client.post("/tiny/predict", json=ORDER)
            assert answer.status_code == 200, answer.text
            body = answer.json()
            assert (body["model"], body["version"], body["probability"]) == ("tiny", 2, right)
            assert body["answered_by"] == "model"
            assert body["logged"] is True
            assert client.post("/tiny/predict", content=b"{", headers=JSON).status_code == 422
            [model] = client.get("/models").json()["models"]
            assert model["model"] == "tiny"
            page = client.get("/docs.json")
            assert page.status_code == 200
            assert page.json()["info"]["version"]

            _, text = create_key(home / "api-keys.json", "booking", roles=["predict"], limit=None)
            deadline = time.monotonic() + 30
            while client.post("/tiny/predict", json=ORDER).status_code != 401:
                assert time.monotonic() < deadline, "a key that is made counts"
                time.sleep(0.05)
            allowed = client.post("/tiny/predict", json=ORDER, headers={"Authorization": f"Bearer {text}"})
            assert allowed.json()["probability"] == right
            assert list((home / "prediction-log").rglob("*")), "it logs to its own home"
            _, operator = create_key(home / "api-keys.json", "ada", roles=["operate", "predict"], limit=None)
            headers = {"Authorization": f"Bearer {operator}"}

            def decide(action: str) -> tuple[int, str | None]:
                answer = client.post(f"/admin/tiny/{action}", json={"why": "a test"}, headers=headers)
                return answer.status_code, answer.json().get("killed")

            while (decided := decide("kill"))[0] == 401:
                assert time.monotonic() < deadline, "a key that is made counts"
                time.sleep(0.05)
            assert decided == (200, "a test")
            assert client.post("/tiny/predict", json=ORDER, headers=headers).json()["answered_by"] == "rule"
            assert decide("rollback")[0] == 409
        # A restart does not forget it.
        with serving(built, settings, home) as client:
            assert client.post("/tiny/predict", json=ORDER, headers=headers).json()["answered_by"] == "rule"
            assert decide("resume") == (200, None)
            assert client.post("/tiny/predict", json=ORDER, headers=headers).json()["probability"] == right
            assert decide("resume")[0] == 409
        # A second start on the same home, which is no longer empty.
        with serving(built, settings, home) as client:
            again = client.post("/tiny/predict", json=ORDER, headers={"Authorization": f"Bearer {text}"})
            assert again.json()["version"] == 2
    finally:
        hidden.rename(root / "registry")
        (root / "ledger.hidden").rename(settings.home / "ledger.db")


@pytest.mark.slow
def test_a_bento_follows_the_ledger_that_it_is_given(
    root: Path, settings: Settings, built: Built, tmp_path: Path
) -> None:
    other = Settings(home=tmp_path / "elsewhere")
    for version in (1, 2, 3):
        folder = root / "registry" / str(version)
        sha256 = make_bundle(folder, seed=version) if version == 3 else read_bundle(folder).sha256
        release_bundle(other, "tiny", folder, sha256, version=version)
    with serving(built, settings, tmp_path / "empty", PILOTAGE_LEDGER_URL=other.ledger) as client:
        deadline = time.monotonic() + 60
        while (body := client.post("/tiny/predict", json=ORDER).json())["version"] != 3:
            assert time.monotonic() < deadline, body
            time.sleep(0.05)
        assert body["probability"] == expected(root / "registry" / "3")


@pytest.mark.slow
def test_a_bento_holds_the_code_that_it_runs_pinned_libraries_and_no_secrets(
    root: Path, settings: Settings, built: Built
) -> None:
    source = built.folder / "src"
    assert sorted(path.name for path in (source / "baked/bundles/tiny").iterdir()) == ["1", "2"]
    assert not {"dagster", "mlflow", "evidently"} & {path.name for path in source.iterdir()}
    assert [path.name for path in (source / "assets/models").glob("*.py")].count("flight_delay.py") == 0
    # What Python compiled when it was served names where it lies.
    files = (path for path in built.folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    whole = "".join(path.read_text(errors="replace") for path in files)
    assert str(settings.home) not in whole, "it says nothing of where it was made"
    facts = yaml.safe_load((built.folder / "bento.yaml").read_text())
    assert facts["name"] == "tiny"
    assert facts["labels"] == {"tiny": "2"}

    code = (
        "import json, sys; import serving.bento; "
        "ours = {n: m.__file__ for n, m in sys.modules.items() "
        "if n.split('.')[0] in ('pilotage', 'serving', 'assets') and getattr(m, '__file__', None)}; "
        "tops = {n.split('.')[0] for n in sys.modules}; from importlib.metadata import packages_distributions; "
        "known = packages_distributions(); "
        "print(json.dumps([ours, sorted({x for t in tops for x in known.get(t, [])})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    modules, libraries = json.loads(done.stdout.splitlines()[-1])
    strangers = {name: file for name, file in modules.items() if not file.startswith(str(source))}
    assert strangers == {}, "everything of ours is in the bento"
    pinned = {line.split("==")[0] for line in (source / "requirements.txt").read_text().splitlines()}
    # What BentoML and others take if it happens to be there.
    taken_if_there = {"brotli", "setuptools", "sniffio", "pilotage"}
    missing = {name.lower().replace("_", "-").replace(".", "-") for name in libraries} - pinned - taken_if_there
    assert missing == set(), "a bento on another machine would not start"


@pytest.mark.slow
def test_a_bento_moves_to_another_store_as_the_how_to_says(settings: Settings, built: Built, tmp_path: Path) -> None:
    text = (PROJECT / "docs/how-to/serve-a-bento.md").read_text()
    [leaves, comes] = re.findall(r"^bentoml (?:export|import) .*$", text, re.MULTILINE)

    def run(command: str, folder: Path) -> str:
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "BENTOML_HOME": str(folder),
            "BENTOML_DO_NOT_TRACK": "True",
        }
        told = subprocess.run(
            ["sh", "-c", command.replace("flight_delay", "tiny")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        return told.stdout

    run(leaves, store(settings))
    run(comes, tmp_path / "elsewhere")
    assert built.tag in run("bentoml list", tmp_path / "elsewhere")


def test_building_leaves_nothing_but_the_bento(settings: Settings, built: Built) -> None:
    kept = store(settings)
    assert [path.name for path in kept.iterdir() if path.name.startswith("context-")] == []
    assert list((kept / "tmp").iterdir()) == []


def test_no_bento_of_several_models_has_the_name_of_a_module() -> None:
    # BentoML imports what it is told to serve before it looks into its store.
    assert name_of(["tiny"]) == "tiny"
    assert not name_of(["tiny", "other"]).isidentifier()


def test_what_pins_a_bento_is_what_is_installed() -> None:
    pins = closure(("bentoml", "polars"), ("no-such-library",))
    assert pins["polars"] == pl.__version__
    assert {"starlette", "polars-runtime-32"} <= set(pins)
    assert not {"dagster", "mlflow", "pandas"} & set(pins)


def test_a_model_without_a_champion_and_one_that_was_killed_are_not_baked(settings: Settings, tmp_path: Path) -> None:
    plan = plans_of(settings)["tiny"]
    with pytest.raises(NotReleasable, match="no champion"):
        bake(tmp_path / "a", [Plan(model="tiny", sequence=0)])
    with pytest.raises(NotReleasable, match="was killed: leak"):
        bake(tmp_path / "b", [Plan(model="tiny", sequence=9, champion=plan.champion, killed="leak")])


def test_a_damaged_champion_is_not_baked_and_a_damaged_one_before_it_stays_behind(
    settings: Settings, root: Path, tmp_path: Path
) -> None:
    plan = plans_of(settings)["tiny"]
    assert plan.champion is not None
    assert plan.previous is not None
    told: list[str] = []
    model = root / "registry" / "1" / "model.txt"
    good = model.read_bytes()
    model.write_bytes(good.replace(b"leaf_value", b"leaf_valoo", 1))
    try:
        baked = bake(tmp_path / "a", [plan], report=told.append)
        assert baked["tiny"].previous is None
        assert "version 1 stays behind" in told[0]
        with pytest.raises(BundleCorrupt):
            bake(tmp_path / "b", [Plan(model="tiny", sequence=1, champion=plan.previous)])
    finally:
        model.write_bytes(good)


def test_what_was_baked_serves_from_wherever_it_is_now(settings: Settings, tmp_path: Path) -> None:
    bake(tmp_path / "here", [plans_of(settings)["tiny"]])
    (tmp_path / "here").rename(tmp_path / "there")
    plans = Baked(tmp_path / "there").plans()
    for assignment in plans["tiny"].assignments():
        assert Path(assignment.bundle).is_relative_to(tmp_path / "there")
        assert read_bundle(Path(assignment.bundle), sha256=assignment.bundle_sha256)
    assert plans["tiny"].canary is None


def test_with_a_ledger_what_was_baked_is_known_until_the_ledger_can_be_read(settings: Settings, tmp_path: Path) -> None:
    bake(tmp_path / "baked", [plans_of(settings)["tiny"]])
    baked, home = Baked(tmp_path / "baked"), Settings(home=tmp_path / "home", ledger_url="sqlite:////nowhere/ledger.db")

    def ledger() -> dict[str, Plan]:
        return {}

    assert baked.releases(home, ledger) is ledger
    assert json.loads((home.service_state / "plans.json").read_bytes())["plans"].keys() == {"tiny"}
    assert baked.releases(Settings(home=tmp_path / "other"), ledger)().keys() == {"tiny"}
    assert not (tmp_path / "other").exists()
