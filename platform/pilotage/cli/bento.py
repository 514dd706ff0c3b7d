"""``pilotage bento``: a bento that serves champions on its own, with their bundles inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotage.cli import bento_context
from pilotage.cli.console import err, out
from pilotage.errors import ConfigError, ReleaseError
from pilotage.runtime.baked import bake
from pilotage.runtime.plan import Plan
from pilotage.settings import Settings

_PATIENCE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A bento in the store."""

    tag: str
    """``name:version``."""
    folder: Path
    """Where the store has it; its code is in ``src``."""


def store(settings: Settings) -> Path:
    """Where bentos go: ``BENTOML_HOME`` of the commands that handle them."""
    return settings.home / "bentoml"


def bento(settings: Settings, models: Sequence[str], *, everything: bool) -> None:
    """Builds a bento, and says how to serve it.

    Raises:
        ConfigError: No model was named, or an unknown one.
        NotReleasable: A model has no champion, or was killed.
        BundleCorrupt: A champion's bundle is not what was promoted.
        ReleaseError: BentoML could not build it.
    """
    from pilotage.cli import declared
    from pilotage.release.feed import PlanFeed
    from pilotage.release.ledger import SqlLedger

    if everything == bool(models):
        raise ConfigError("Which models?", fix="Name them, or give --all.")
    known = declared.models()
    if unknown := sorted(set(models) - set(known)):
        raise ConfigError(f"There is no model {unknown[0]!r}.", fix=f"Use some of: {', '.join(sorted(known))}.")
    ledger = SqlLedger.to_read(settings)
    try:
        plans = PlanFeed(ledger)()
    finally:
        ledger.close()
    wanted = [plans.get(name) or Plan(model=name, sequence=0) for name in known if everything or name in models]
    built = build(settings, wanted)
    home = store(settings)
    out().print(f"{built.tag} is in {built.folder}", highlight=False, markup=False, soft_wrap=True)
    err().print(
        f"Serve it: BENTOML_HOME={home} PILOTAGE_HOME=<a folder of its own> bentoml serve {built.tag}\n"
        "More: docs/how-to/serve-a-bento.md",
        highlight=False,
        markup=False,
    )


def build(
    settings: Settings,
    plans: Sequence[Plan],
    *,
    declared: Path | None = None,
    prepare: Callable[[Path], None] = lambda _: None,
) -> Built:
    """Puts code, champions and plans together, and has BentoML build a bento of them.

    Args:
        settings: Whose home gets the bento.
        plans: What it serves.
        declared: Folder of the models' files; by default the project's.
        prepare: Called with the folder before it is built; for what else should be in it.

    Raises:
        NotReleasable: A model has no champion, or was killed.
        BundleCorrupt: A champion's bundle is not what was promoted.
        ReleaseError: BentoML could not build it.
    """
    home = store(settings)
    home.mkdir(parents=True, exist_ok=True)
    # Beside the store, not in /tmp, where there may be no room for bundles.
    context = Path(tempfile.mkdtemp(prefix="context-", dir=home))
    try:
        baked = bake(context / bento_context.BAKED, plans, report=err().print)
        versions = {model: str(plan.champion.version) for model, plan in baked.items() if plan.champion}
        bento_context.write_context(context, list(versions), name=name_of(versions), labels=versions, declared=declared)
        prepare(context)
        tag = _run_bentoml(home, context)
    finally:
        shutil.rmtree(context, ignore_errors=True)
    place, version = tag.split(":")
    return Built(tag=tag, folder=home / "bentos" / place / version)


def name_of(models: Collection[str]) -> str:
    """The name of a bento. Of several models none that Python could import: ``bentoml serve NAME:latest`` tries that
    first, and the bento would go on with the module that it found, such as another version of Pilotage."""
    return next(iter(models)) if len(models) == 1 else "pilotage-models"


def _run_bentoml(home: Path, context: Path) -> str:
    """Builds the context, and gives the bento's tag."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "BENTOML_CONFIG_OPTIONS")}
    # Its own code first, from where it is; nothing of it is written to the context.
    ours = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(context)],
        cwd=context,
        env={**kept, **ours},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    tags = [line.partition("__tag__:")[2].strip() for line in done.stdout.splitlines() if "__tag__:" in line]
    if done.returncode != 0 or len(tags) != 1:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ReleaseError(
            f"BentoML could not build the bento: {said[-1] if said else f'exit code {done.returncode}'}",
            fix="bentoml build says more if it is run with --verbose; the models' files must load: pilotage check.",
        )
    return tags[0]
