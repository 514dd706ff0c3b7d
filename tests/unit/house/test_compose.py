"""The compose file, without a container engine: it parses, fits together, and starts commands that exist."""

import json
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotage.cli.home import QUIET
from pilotage.pseudonyms import Pseudonyms
from pilotage.release.events import read_key as read_ledger_key
from pilotage.runtime.access.keyfile import import_keys
from pilotage.runtime.access.keys import KeyRing
from pilotage.settings import PREFIX, PROJECT, Settings

OURS = ("code", "webserver", "daemon", "watch", "mlflow", "service")


@cache
def compose() -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "docker-compose.yml").read_text())


def services() -> dict[str, dict[str, Any]]:
    return compose()["services"]


def variables() -> dict[str, set[str]]:
    """Variable of the compose file → the ways in which it is asked for (``:?…``, ``:-…`` or nothing)."""
    found: dict[str, set[str]] = {}
    text = (PROJECT / "docker-compose.yml").read_text().replace("$$", "")
    for name, way in re.findall(r"\$\{(\w+)((?::[?-])?)", text):
        found.setdefault(name, set()).add(way)
    return found


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Source and target of each volume of a service."""
    pairs = []
    for volume in service.get("volumes", []):
        source, target = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume).split(":")[:2]
        pairs.append((source, target))
    return pairs


def test_every_part_that_a_team_needs_is_there():
    assert {"postgres", "migrate", "keys", "proxy", *OURS} == set(services())


def test_what_it_refers_to_exists():
    whole = compose()
    for name, service in services().items():
        assert set(service.get("depends_on", {})) <= set(services()), name
        assert set(service.get("networks", [])) <= set(whole["networks"]), name
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        for source, _ in mounts(service):
            assert source in whole["volumes"] or (PROJECT / source).exists(), f"{name}: {source}"
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services()[other], f"{name} waits for the health of {other}"
    used = {source for service in services().values() for source, _ in mounts(service)}
    assert set(whole["volumes"]) <= used


def test_nobody_waits_for_themselves():
    done: set[str] = set()
    while len(done) < len(services()):
        free = {name for name, one in services().items() if name not in done and set(one.get("depends_on", {})) <= done}
        assert free, f"these wait for each other: {sorted(set(services()) - done)}"
        done |= free


def test_only_the_proxy_is_reachable_and_only_from_this_machine():
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert list(published) == ["proxy"]
    assert published["proxy"] == [f"127.0.0.1:{port}:{port}" for port in (3000, 3001, 5000, 8000)]
    assert compose()["networks"]["back"] == {"internal": True}


def test_who_needs_a_secret_has_it_and_nobody_else():
    """The web server and the daemon load no code of ours; the proxy sees keys go by, and can't check them."""
    holders = {name: set(service["secrets"]) for name, service in services().items() if service.get("secrets")}
    assert holders == {
        "keys": {"api_keys"},
        "code": {"ledger_key", "pseudonym_key", "receivers", "tls_certificate"},
        "watch": {"receivers", "tls_certificate"},
        "service": {"ledger_key", "pseudonym_key"},
        "proxy": {"people", "tls_certificate", "tls_key"},
    }
    for name in ("code", "service"):
        environment = services()[name]["environment"]
        for setting, secret in (("LEDGER_KEY_FILE", "ledger_key"), ("PSEUDONYM_KEY_FILE", "pseudonym_key")):
            # The merge of two mappings is one level deep, and YAML's own does it.
            assert environment[f"PILOTAGE_{setting}"] == f"/run/secrets/{secret}"


def test_who_tells_people_of_alarms_knows_whom_and_reaches_them_with_the_daemon_and_without():
    for name in ("code", "watch"):
        service = services()[name]
        assert service["environment"]["PILOTAGE_ALERTS_FILE"] == "/run/secrets/receivers"
        assert service["environment"]["PILOTAGE_CERTIFICATE_FILE"] == "/run/secrets/tls_certificate"
        assert service["networks"] == ["back", "out"]
        # The book of alarms, and the heartbeat that one writes and the other reads.
        assert dict(mounts(service))["state"] == "/var/lib/pilotage"


def test_the_service_reads_the_api_keys_that_operators_change_and_can_change_none():
    where = {name: dict(mounts(services()[name])).get("access") for name in ("keys", "code", "service")}
    assert set(where.values()) == {"/var/lib/pilotage/access"}
    files = {name: services()[name]["environment"]["PILOTAGE_API_KEYS_FILE"] for name in where}
    assert set(files.values()) == {"/var/lib/pilotage/access/api-keys.json"}
    assert "access:/var/lib/pilotage/access:ro" in services()["service"]["volumes"]
    assert services()["service"]["depends_on"]["keys"]["condition"] == "service_completed_successfully"
    assert services()["keys"]["command"][-1] == f"/run/secrets/{services()['keys']['secrets'][0]}"


def test_every_container_is_confined():
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("privileged") is None, name
        unprivileged_image = "unprivileged" in service.get("image", "")
        assert unprivileged_image or service["user"] not in ("root", "0"), name


def test_every_server_says_whether_it_is_well():
    assert [name for name, service in services().items() if "healthcheck" not in service] == [
        "migrate",
        "keys",
    ]


def test_there_is_no_default_password():
    asked = variables()
    for name in ("POSTGRES_PASSWORD", "DAGSTER_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "LEDGER_DB_PASSWORD", "DOMAIN"):
        assert ":?" in asked[name], f"{name} must be required"
        assert ":-" not in asked[name]
    text = (PROJECT / "docker-compose.yml").read_text()
    assert re.findall(r"(?i)password\w*:(?![?-])\s*(?!\$\{)\S+", text) == []


def test_the_script_makes_every_variable_and_secret_that_is_required(tmp_path: Path):
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "make-secrets"
    script.write_bytes((PROJECT / "deploy" / "make-secrets").read_bytes())
    script.chmod(0o755)
    done = subprocess.run([script, "pilotage.example", "ada"], capture_output=True, text=True, check=False)
    if "openssl" in done.stderr:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr
    made = dict(re.findall(r"^(\w+)=(.+)$", (tmp_path / ".env").read_text(), re.MULTILINE))
    assert {name for name, ways in variables().items() if ":-" not in ways} == set(made)
    assert made["DOMAIN"] == "pilotage.example"
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert (tmp_path / "deploy" / "secrets").stat().st_mode & 0o077 == 0
    for secret in compose()["secrets"].values():
        assert (tmp_path / secret["file"]).stat().st_size > 0
    people = (tmp_path / "deploy/secrets/people").read_text()
    assert people.startswith("ada:$6$")
    secrets = {file.name: file.read_bytes() for file in (tmp_path / "deploy/secrets").iterdir()}

    again = subprocess.run([script], capture_output=True, text=True, check=True)
    assert again.stdout == "", "a second run must leave everything as it is"
    other = subprocess.run([script, "elsewhere.example"], capture_output=True, text=True, check=False)
    assert (other.returncode, other.stdout) == (2, "")
    assert "'pilotage.example' in .env, not 'elsewhere.example'. Nothing was written.\nFix: " in other.stderr
    assert {file.name: file.read_bytes() for file in (tmp_path / "deploy/secrets").iterdir()} == secrets

    text = re.search(r"^application: API key (\S+) ", done.stdout, re.MULTILINE).group(1)
    # As the container does it.
    import_keys(tmp_path / "access" / "api-keys.json", tmp_path / "deploy/secrets/api-keys.json")
    caller = KeyRing(tmp_path / "access" / "api-keys.json").authenticate(f"Bearer {text}")
    assert (caller.name, caller.roles) == ("application", {"predict", "outcomes"})
    assert len(text.split("_", 2)[2]) == 43
    assert text.split("_", 2)[2].encode() not in secrets["api-keys.json"]
    assert len(read_ledger_key(tmp_path / "deploy/secrets/ledger.key") or b"") == 64
    assert Pseudonyms.of(Settings(pseudonym_key_file=tmp_path / "deploy/secrets/pseudonym.key")).apply("a", "b")
    assert secrets["ledger.key"] != secrets["pseudonym.key"]


@pytest.mark.parametrize(
    "words", [["--help"], ["https://pilotage.example"], ["pilotage.example:3000"], ["pilotage.example", "ada:admin"]]
)
def test_the_script_writes_nothing_for_what_is_no_name(words: list[str], tmp_path: Path):
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "make-secrets"
    script.write_bytes((PROJECT / "deploy" / "make-secrets").read_bytes())
    script.chmod(0o755)
    done = subprocess.run([script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.match(rf"Error: '{re.escape(words[-1])}' is no .+ Nothing was written\.\nFix: ", done.stderr)
    assert [path.name for path in tmp_path.rglob("*")] == ["deploy", "make-secrets"]


def test_settings_know_every_variable_that_they_are_given():
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    dockerfile = (PROJECT / "Dockerfile").read_text()
    given = set(re.findall(rf"\b({PREFIX}\w+)=", dockerfile))
    for service in services().values():
        given |= {name for name in service.get("environment", {}) if name.startswith(PREFIX)}
    assert given <= known
    assert {"PILOTAGE_HOME", "PILOTAGE_MLFLOW_URI", "PILOTAGE_LEDGER_URL", "PILOTAGE_DAGSTER_URL"} <= given


HELP = """
import contextlib, io, json, runpy, sys
from importlib.metadata import entry_points

told = []
for command in json.loads(sys.argv[1]):
    output = io.StringIO()
    sys.argv = [*command, "--help"]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output), contextlib.suppress(SystemExit):
        if command[:2] == ["python", "-m"]:
            sys.argv = sys.argv[2:]
            runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        else:
            next(iter(entry_points(group="console_scripts", name=command[0]))).load()()
    told.append(output.getvalue())
print(json.dumps(told))
"""
"""Prints the help of several commands, in one process: each of its own would import Dagster again."""


@pytest.mark.slow
def test_every_command_exists_and_knows_its_options():
    commands = {name: services()[name]["command"] for name in (*OURS, "migrate", "keys")}
    commands |= {
        f"health of {name}": services()[name]["healthcheck"]["test"][1:] for name in ("code", "daemon", "watch")
    }
    split: list[tuple[str, list[str], list[str]]] = []
    for name, command in commands.items():
        first = next((place for place, word in enumerate(command) if word.startswith("--")), len(command))
        split.append((name, command[:first], [word for word in command[first:] if word.startswith("--")]))
    call = [sys.executable, "-c", HELP, json.dumps([command for _, command, _ in split])]
    done = subprocess.run(call, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    for (name, command, options), told in zip(split, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert "usage:" in told.lower(), f"{name}: {' '.join(command)} does not run"
        for option in options:
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", told), f"{name}: {command[0]} has no {option}"


def test_dagster_is_configured_as_on_one_machine_but_for_its_storage():
    deployed = yaml.safe_load((PROJECT / "deploy/dagster.yaml").read_text())
    embedded = yaml.safe_load((PROJECT / "platform/pilotage/cli/templates/dagster.yaml").read_text())
    # Where events are kept is storage too: the embedded one has a SQLite of its own for that.
    embedded.pop("event_log_storage", None)
    assert {key: value for key, value in deployed.items() if key != "storage"} == embedded
    assert list(deployed["storage"]) == ["postgres"]


def test_every_part_of_dagster_reads_the_same_configuration():
    """`pilotage train` in a container would otherwise write one for SQLite, and work beside the others."""
    home = re.search(r"DAGSTER_HOME=(\S+)", (PROJECT / "Dockerfile").read_text()).group(1)
    assert home == "/var/lib/pilotage/dagster"
    for name in ("migrate", "code", "webserver", "daemon"):
        where = dict(mounts(services()[name]))
        assert where["dagster"] == home, name
        assert where["./deploy/dagster.yaml"] == f"{home}/dagster.yaml", name


def test_dagster_accepts_its_configuration(monkeypatch: pytest.MonkeyPatch):
    from dagster._config import process_config, resolve_to_config_type
    from dagster._core.instance.config import dagster_instance_config_schema

    monkeypatch.setenv("DAGSTER_DB_PASSWORD", "secret")
    config = yaml.safe_load((PROJECT / "deploy/dagster.yaml").read_text())
    checked = process_config(resolve_to_config_type(dagster_instance_config_schema()), config)
    assert checked.success, checked.errors
    storage = config["storage"]["postgres"]["postgres_db"]
    assert storage["password"] == {"env": "DAGSTER_DB_PASSWORD"}
    for name in ("migrate", "code", "webserver", "daemon"):
        assert "DAGSTER_DB_PASSWORD" in services()[name]["environment"], name


def test_the_web_server_finds_the_code_location_where_it_listens():
    (location,) = yaml.safe_load((PROJECT / "deploy/workspace.yaml").read_text())["load_from"]
    command = services()["code"]["command"]
    assert location["grpc_server"]["host"] == "code"
    assert str(location["grpc_server"]["port"]) == command[command.index("--port") + 1]


def test_the_image_has_what_the_commands_need_and_runs_as_nobody_special():
    lines = (PROJECT / "Dockerfile").read_text()
    assert "--require-hashes" in lines
    assert re.search(r"^USER 10001:10001$", lines, re.MULTILINE)
    for copied in re.findall(r"^COPY (?:--\S+ )*(?!--)(.+) \S+$", lines, re.MULTILINE):
        for source in copied.split():
            assert source.startswith("/") or (PROJECT / source).exists(), source
    allowed = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for copied in re.findall(r"^COPY (?!--from)(?:--\S+ )*(?!--)(.+) \S+$", lines, re.MULTILINE):
        for source in copied.split():
            assert source in allowed, f"{source} is kept out by .dockerignore"


def test_the_code_in_the_image_knows_its_version(tmp_path: Path):
    """It is not installed there, and ``importlib.metadata`` would raise: in a training run, in an answer."""
    made = re.search(r"^RUN (version=(?:.*\\\n)*.*)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    (tmp_path / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    subprocess.run(["sh", "-eu", "-c", made.group(1)], cwd=tmp_path, check=True)
    [found] = metadata.distributions(name="pilotage", path=[str(tmp_path)])
    assert found.version == metadata.version("pilotage")


def test_the_image_says_to_every_program_what_up_says_to_those_it_starts():
    """Without a size of batches, the events of a run over many days are written one by one: for 59 days, half a minute
    in which the daemon looks at nothing else."""
    said = re.search(r"^ENV ((?:.*\\\n)*.*)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE).group(1)
    assert dict(QUIET).items() <= dict(re.findall(r"(\w+)=(\S+)", said)).items()


def test_volumes_belong_to_the_user_of_the_image():
    """A new volume takes over the owner of the folder that it covers; one that is missing would be root's."""
    dockerfile = (PROJECT / "Dockerfile").read_text()
    made = re.search(r"for folder in ([\w/ ]+); do", dockerfile)
    folders = {f"/var/lib/{name}" for name in made.group(1).split()}
    for name in (*OURS, "keys"):
        for source, target in mounts(services()[name]):
            assert target in folders or source.startswith("./"), f"{name}: {target}"


def test_a_backup_is_made_of_a_stack_that_stands_still_and_a_restore_brings_back_all_of_it():
    """What was answered goes from the log into the lake: copied one after the other meanwhile, neither may have it."""
    page = (PROJECT / "docs/how-to/back-up-and-restore.md").read_text()
    # In tar's own format times are whole seconds: every landed file would be read again.
    assert page.count("tar --create") == page.count("tar --create --gzip --format=posix")
    backup, restore = re.findall(r"```bash\n(.*?)```", page.split("## The compose file")[1], re.DOTALL)
    for block, steps in (
        (backup, ("compose stop", "up --detach --wait postgres", "pg_dumpall", "tar --create", "up --detach --wait\n")),
        (restore, ("compose create", "--wait postgres", "psql", "tar --extract", "up --detach --wait\n")),
    ):
        places = [block.index(step) for step in steps]
        assert places == sorted(places)
        copied = set(re.search(r"for volume in (.+); do", block).group(1).split())
        # The one is dumped, and the other has the output of runs.
        assert copied == set(compose()["volumes"]) - {"postgres", "dagster"}


def test_secrets_that_change_while_the_stack_runs_are_written_into_the_file_that_the_containers_have():
    """A file is mounted, not its name: what is put in its place a container sees only after a restart."""
    page = (PROJECT / "docs/how-to/take-to-production.md").read_text()
    for file in ("tls.crt", "tls.key"):
        assert page.index(f"> deploy/secrets/{file}") < page.index("exec proxy nginx -s reload")
    holders = sorted(name for name, one in services().items() if "receivers" in one.get("secrets", []))
    told = f"docker compose restart {' '.join(holders)}"
    assert told in (PROJECT / "deploy/make-secrets").read_text()
    assert told in (PROJECT / "docs/how-to/alerts.md").read_text()
