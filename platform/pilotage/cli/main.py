"""The ``pilotage`` command. Here are its commands, their options and their help; the work is done elsewhere.

Nothing heavy is imported before a command runs, so that ``--help`` and completion answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pilotage.cli import decisions
from pilotage.cli.alerts import alerts
from pilotage.cli.audit import audit
from pilotage.cli.boundary import run
from pilotage.cli.card import card
from pilotage.cli.erase import erase
from pilotage.cli.reproduce import reproduce
from pilotage.cli.retrain import retrain

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """Lists commands in the order in which a newcomer needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(package_name="pilotage", message="pilotage %(version)s")
def cli() -> None:
    """A data and training platform on Dagster: from the sandbox into production, and kept there.

    All state is in PILOTAGE_HOME (default: .pilotage/ in the project). Every setting is an environment variable
    PILOTAGE_…; see docs/how-to/run-locally.md.
    """


@cli.command(short_help="Start everything, and make the first champions.")
@click.option("--no-sample", is_flag=True, help="Don't land the sample data and don't train on it.")
@click.option(
    "--exit-when-ready", is_flag=True, help="Stop as soon as everything serves, and print what was there as JSON."
)
@click.option("--plain", is_flag=True, help="Print lines instead of a live display, as it does into a pipe.")
def up(no_sample: bool, exit_when_ready: bool, plain: bool) -> None:
    """Start everything; on an empty home, land data and train and release the first champions.

    Starts the Dagster UI and daemon, the MLflow UI, the reports and the prediction service, shows their addresses and
    health, and stops them all on Ctrl-C. A start that was interrupted goes on where it stopped.
    """
    from pilotage.cli.up import Options, up

    sys.exit(up(_settings(), Options(sample=not no_sample, exit_when_ready=exit_when_ready, plain=plain)))


@cli.command(short_help="What is in production, and how it is doing.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@decisions.AS_JSON
def status(models: tuple[str, ...], as_json: bool) -> None:
    """What is in production, since when, trained when and on what data, promoted by whom, and how it is doing."""
    from pilotage.cli.console import print_json
    from pilotage.cli.status import report, show

    found = report(_settings(), list(models))
    print_json(found) if as_json else show(found)


@cli.command(short_help="Train a model from one file, and judge it.")
@click.argument("model")
@click.option(
    "--config",
    "-c",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file: data version, hyper-parameters, resources, evaluation criteria. Default: as the model declares.",
)
def train(model: str, config: Path | None) -> None:
    """Train MODEL in a Dagster run, from one file, and say what the gate says.

    Exit code 0: registered as a version that may be promoted. 3: the gate refused it (the champion stays). 1: failed.
    """
    from pilotage.cli.train import train

    sys.exit(train(_settings(), model, config))


cli.add_command(retrain)

for _decision in decisions.COMMANDS:
    cli.add_command(_decision)


@cli.command(short_help="Trace a prediction back to its version, its data and their files.")
@click.argument("prediction_id")
@click.option("--files", is_flag=True, help="Name every source file, with its SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every file.")
def trace(prediction_id: str, files: bool, as_json: bool) -> None:
    """Say what was answered, why, by which version, who released it, and from which files it learned.

    PREDICTION_ID is in every answer of the service. The explanation is computed again from what was logged.
    """
    from pilotage.cli.trace import show

    show(_settings(), prediction_id, files=files, as_json=as_json)


cli.add_command(card)
cli.add_command(reproduce)
cli.add_command(erase)


@cli.command(short_help="Query the lake with DuckDB.")
@click.argument("query")
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--json", "form", flag_value="json", help="Print a JSON list with one object a row.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Rows shown as a table; CSV and JSON print all.",
)
def sql(query: str, form: str | None, limit: int) -> None:
    """Query the lake with DuckDB. Tables: raw.flights, validated.flights, quarantine.flights, features.flight_delay …

    pilotage sql "select day, count(*) from validated.flights group by day order by day"
    """
    from pilotage.cli.sql import show

    show(_settings(), query, form=form or "table", limit=limit)


@cli.group(cls=Commands, short_help="Write the first file of a source or a model.")
def new() -> None:
    """Write the first file of a source or a model, with blanks to fill in."""


@new.command("source", short_help="Write assets/sources/NAME.py: a dataset.")
@click.argument("name")
@click.option(
    "--from",
    "read",
    type=click.Choice(["files", "sql", "rest"]),
    default="files",
    show_default=True,
    help="Landed files, a SQL table, or a REST endpoint.",
)
@click.option("--daily/--whole", default=True, show_default=True, help="One batch a day, or one table (SQL always is).")
def new_source(name: str, read: str, daily: bool) -> None:
    """Write assets/sources/NAME.py: where a dataset comes from, what a good row is, what a good day is."""
    from pilotage.cli.scaffold import scaffold, source_flags

    scaffold("source", name, flags=source_flags(read, daily=daily))


@new.command("model", short_help="Write assets/models/NAME.py: a model.")
@click.argument("name")
@click.option("--time/--no-time", default=True, show_default=True, help="Whether its data has an event time.")
def new_model(name: str, time: bool) -> None:
    """Write assets/models/NAME.py: what is predicted, from what, and when it is good enough."""
    from pilotage.cli.scaffold import scaffold

    scaffold("model", name, flags={"time" if time else "notime"})


@cli.command(short_help="Load every declaration, and say which files are fine.")
def check() -> None:
    """Load every declaration, try it on tables without rows, and say of each file whether it is fine.

    Exit code 1 if one is not.
    """
    from pilotage.cli.check import check

    sys.exit(check())


DAY = click.DateTime(formats=["%Y-%m-%d"])


@cli.command(short_help="Publish more days of the sample data.")
@click.argument("source", type=click.Choice(["flights", "weather"]))
@click.option("--from", "first", type=DAY, required=True, help="First day, YYYY-MM-DD.")
@click.option("--to", "last", type=DAY, required=True, help="Last day, included.")
def land(source: str, first: Any, last: Any) -> None:
    """Publish more sample days into the landing folder, as the airline's export job would."""
    from pilotage.cli.land import land

    land(_settings(), source, first.date(), last.date())


@cli.command(short_help="Send history through the running platform.")
@click.argument("model")
@click.option("--from", "first", type=DAY, required=True, help="First day, YYYY-MM-DD.")
@click.option("--to", "last", type=DAY, required=True, help="Last day, included.")
@click.option("--speed", type=float, default=None, help="Replayed seconds a second. Default: as fast as it goes.")
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Requests that wait for their answer at most.",
)
@click.option("--name", "label", default="year", show_default=True, help="Of the replay; the same one goes on.")
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with a key of the roles predict, outcomes and read, if the service wants one.",
)
def replay(
    model: str, first: Any, last: Any, speed: float | None, at_once: int, label: str, api_key_file: Path | None
) -> None:
    """Replay history day by day through the running platform, and report what it made of it.

    Lands each day's files, sends its requests at their own prediction moments, tells outcomes when they became known,
    does the night's work, and waits for the platform at each step. Ctrl-C stops it; the same command goes on.
    """
    from pilotage.cli.replay import replay

    sys.exit(
        replay(
            _settings(),
            model,
            first=first.date(),
            last=last.date(),
            speed=speed,
            at_once=at_once,
            label=label,
            api_key=api_key_file.read_bytes().decode("ascii", "backslashreplace").strip() if api_key_file else None,
        )
    )


cli.add_command(audit)
cli.add_command(alerts)


@cli.group(cls=Commands, short_help="Make, list and revoke API keys of the prediction service.")
def keys() -> None:
    """Who may ask the prediction service for what, and how often. See docs/how-to/manage-api-keys.md."""


@keys.command("create", short_help="Make a key, and show it this once.")
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice(["predict", "outcomes", "read", "operate"]),
    help="What it may do; can be given more than once.",
)
@click.option(
    "--rate", default=None, type=float, help="Requests a second, on average; a batch counts its rows. Default: 100."
)
@click.option("--burst", default=None, type=int, help="Requests at once, and the largest batch. Default: 2 x rate.")
@click.option("--unlimited", is_flag=True, help="No limit.")
@click.option("--expires", default=None, metavar="12h|90d|4w", help="How long it is valid. Default: for good.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the key in it.")
def keys_create(
    name: str,
    roles: tuple[str, ...],
    rate: float | None,
    burst: int | None,
    unlimited: bool,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key for NAME, and print it: this once, since only its hash is kept.

    From the first key on, the service answers nobody without one. Running services know it within a second.
    """
    from pilotage.cli.keys import create

    create(
        _settings(), name, roles=roles, rate=rate, burst=burst, unlimited=unlimited, expires=expires, as_json=as_json
    )


@keys.command("list", short_help="Every key with its roles, limit and state.")
@decisions.AS_JSON
def keys_list(as_json: bool) -> None:
    """Every key with its roles, limit and state; secrets are not there to be shown."""
    from pilotage.cli.keys import show

    show(_settings(), as_json=as_json)


@keys.command("revoke", short_help="Refuse a key from now on.")
@click.argument("key_id", metavar="ID")
@click.option("--why", required=True, help="The reason, for the record.")
def keys_revoke(key_id: str, why: str) -> None:
    """Refuse the key with this ID for good; all of a key will do as well. Running services know within a second."""
    from pilotage.cli.keys import revoke

    revoke(_settings(), key_id, why=why)


@keys.command("import", short_help="Take over keys that were made elsewhere.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def keys_import(file: Path) -> None:
    """Add the keys of another key FILE that are not known here yet. What is known stays, revoked or not."""
    from pilotage.cli.keys import take_over

    take_over(_settings(), file)


@cli.command(short_help="Build a bento that serves champions on its own.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "everything", is_flag=True, help="Every declared model.")
def bento(models: tuple[str, ...], everything: bool) -> None:
    """Build a bento with the champions of the MODELs inside: it serves without ledger, MLflow and lake.

    It goes to the store in PILOTAGE_HOME/bentoml; see docs/how-to/serve-a-bento.md.
    """
    from pilotage.cli.bento import bento

    bento(_settings(), models, everything=everything)


@cli.group(hidden=True)
def setup() -> None:
    """Steps of `pilotage up`, each a process of its own. The last line they print is their result."""


@setup.command("store")
def setup_store() -> None:
    from pilotage.cli.release import create_store

    create_store(_settings())


@setup.command("land")
def setup_land() -> None:
    from pilotage.cli.runs import RESULT
    from pilotage.cli.sample import land

    click.echo(f"{RESULT}{land(_settings(), progress=click.echo)}")


@setup.command("missing")
def setup_missing() -> None:
    import json
    from dataclasses import asdict

    from pilotage.cli.missing import find
    from pilotage.cli.runs import RESULT

    click.echo(f"{RESULT}{json.dumps(asdict(find(_settings())))}")


@setup.command("release")
@click.argument("model")
def setup_release(model: str) -> None:
    from pilotage.cli.release import release_first

    release_first(_settings(), model)


def _settings() -> Any:
    from pilotage.settings import Settings

    return Settings.load()


def main() -> None:
    """Entry point: turns deliberate errors into a message and an exit code, and leaves the others their traceback."""
    from pilotage.cli.console import forgive_encodings

    forgive_encodings()
    sys.exit(run(lambda: cli.main(standalone_mode=False)))


if __name__ == "__main__":
    main()
