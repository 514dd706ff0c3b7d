"""The pages that people read after a validation: a summary of ours, and Great Expectations' Data Docs made readable.

``<reports>/<source>/index.html`` lists the runs; ``<run>/index.html`` sums one up and links to its Data Docs, which
keep their own layout. Those refer to sixteen scripts and styles on other machines and render bare without them; here
they get one small style of their own, so that they open from a disk, offline. Only presentation: nothing is judged.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html import escape
from pathlib import Path
from uuid import uuid4

from pilotage.data.report import ExpectationResult, RuleResult
from pilotage.data.source import SourceSpec
from pilotage.data.verdict import Verdicts
from pilotage.errors import StorageFull

KEPT = 50
"""Runs whose pages are kept for each source."""

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2733;background:#fff;margin:0 auto;max-width:1100px;padding:24px}
h1{font-size:22px}h2{font-size:17px;margin-top:2em}a{color:#0b62a4}
table{border-collapse:collapse;width:100%;margin:8px 0}th,td{text-align:left;padding:5px 10px;vertical-align:top;
border-bottom:1px solid #e3e8ee}th{font-weight:600;background:#f5f7fa}td.n{text-align:right;white-space:nowrap}
.bad{color:#b3261e;font-weight:600}.warn{color:#9a6700;font-weight:600}.ok{color:#1a7f37}.soft{color:#5b6875}
svg{display:block}
nav,.navbar{height:auto!important;position:static;background:none;padding:0}nav img,.navbar-brand,footer{display:none}
ol.breadcrumb{list-style:none;padding:0;margin:0 0 12px}ol.breadcrumb li{display:inline}
ol.breadcrumb li+li::before{content:" / "}
.card:has(.btn-group-toggle),.collapse,a[data-toggle=collapse],[hidden]{display:none}
td:first-child{white-space:nowrap}
.sticky{position:static}.card{border:1px solid #e3e8ee;border-radius:6px;padding:8px 14px;margin-bottom:12px}
.nav{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:4px 16px}.alert{background:#f5f7fa;border-radius:6px;
padding:8px 14px}.ge-section{margin:0 0 18px}.badge{background:#e3e8ee;border-radius:4px;padding:0 6px}
.fa-check-circle::before,.fa-check::before{content:"✓";color:#1a7f37}.fas{font-style:normal}
.fa-times::before{content:"✗";color:#b3261e}.fa-exclamation-triangle::before{content:"!";color:#9a6700}
"""

_FOREIGN = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>|url\(['\"]?https?:[^)]*\)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Docs:
    """The pages of one run, in the making."""

    folder: Path
    """Where they are made; Great Expectations makes this folder itself."""
    final: Path
    run_id: str

    @property
    def index(self) -> Path:
        """Where the summary will be."""
        return self.final / "index.html"

    def finish(self, spec: SourceSpec, verdicts: Verdicts, rules: Sequence[RuleResult]) -> None:
        """Makes Great Expectations' pages readable, adds the summary, and puts all in place at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.folder / "static", ignore_errors=True)
        for page in self.folder.rglob("*.html"):
            page.write_text(readable(page.read_text(encoding="utf-8")), encoding="utf-8")
        unmet = sum(not result.met for result in verdicts.results)
        refused = len(verdicts.refused)
        sentence = f"{len(verdicts.batches):,} batches, {refused:,} refused, {unmet:,} expectations not met"
        (self.folder / "summary.txt").write_text(sentence, encoding="utf-8")
        body = [
            f'<p><a href="../index.html">All runs</a></p><h1>{escape(spec.title)}</h1>',
            f"<p>{escape(spec.description)}</p>",
            f"<p><b>{sentence}.</b> <span class=soft>Run {escape(self.run_id)}.</span></p>",
            *(f'<p><a href="{path}">{what}</a></p>' for path, what in self._links()),
            *_summary(spec, verdicts, rules),
        ]
        (self.folder / "index.html").write_text(_page(spec.title, "".join(body)), encoding="utf-8")
        shutil.rmtree(self.final, ignore_errors=True)
        self.folder.replace(self.final)
        _list_runs(spec, self.final.parent)

    def _links(self) -> Iterator[tuple[str, str]]:
        kinds = {"validations": "What Great Expectations found", "expectations": "The suite of expectations"}
        for kind, what in kinds.items():
            for page in sorted((self.folder / kind).rglob("*.html")):
                yield escape(page.relative_to(self.folder).as_posix()), what


@contextmanager
def staged(folder: Path, run_id: str) -> Iterator[Docs]:
    """The pages of a run, made aside and moved into place by ``finish``; nothing is left behind otherwise.

    Raises:
        StorageFull: There is no room for them.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", run_id).lstrip(".") or "run"
    docs = Docs(folder=folder / f".{name}-{uuid4().hex[:8]}", final=folder / name, run_id=run_id)
    try:
        yield docs
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            f"No room is left to write the reports in {folder}; nothing was published.",
            fix="Free space on that disk, then run it again.",
            folder=str(folder),
        ) from error
    finally:
        shutil.rmtree(docs.folder, ignore_errors=True)


def readable(page: str) -> str:
    """A page of Great Expectations without anything that lies on another machine, in our style."""
    return _FOREIGN.sub("", page).replace("</head>", f"<style>{STYLE}</style></head>", 1)


def _summary(spec: SourceSpec, verdicts: Verdicts, rules: Sequence[RuleResult]) -> Iterator[str]:
    if verdicts.refused:
        rows = [[_day(batch), escape(reason)] for batch, reason in verdicts.refused.items()]
        yield "<h2>Refused</h2>" + _table(["Batch", "Why"], rows)
    rows = []
    for item in spec.expectations:
        own = [result for result in verdicts.results if result.name == item.name]
        missed = sum(not result.met for result in own)
        count = f'<span class="{"bad" if missed else "ok"}">{missed:,} of {len(own):,}</span>'
        rows.append([escape(item.name), _severity(item.severity), count, _picture(own), escape(item.why)])
    yield "<h2>Expectations</h2>" + _table(["Number", "Severity", "Not met", "By batch", "Why"], rows)
    if unmet := [result for result in verdicts.results if not result.met]:
        rows = [[_day(each.batch), _severity(each.severity), escape(each.message)] for each in unmet]
        yield "<h2>Not met</h2>" + _table(["Batch", "Severity", "What"], rows)
    rows = [
        [escape(each.column or "several"), escape(each.rule), f"{each.failures:,}", f"{each.share:.3%}"]
        for each in rules
    ]
    yield "<h2>Row contract</h2>" + _table(["Column", "A good value is", "Rows that fail", "Share"], rows)


def _picture(results: Sequence[ExpectationResult], width: int = 300, height: int = 48) -> str:
    """The number by batch as a line, its band as an area, and what was not met as dots."""
    known = [each for each in results if each.value is not None]
    if len(known) < 2:
        return escape(f"{known[0].value:.4g}" if known else "–")
    ends = [end for each in known for end in (each.value, each.low, each.high) if end is not None]
    bottom, top = min(ends), max(ends)

    def x(number: int) -> str:
        return f"{number * width / (len(known) - 1):.1f}"

    def y(value: float | None, otherwise: float) -> str:
        share = ((otherwise if value is None else value) - bottom) / ((top - bottom) or 1.0)
        return f"{2 + (height - 4) * (1 - share):.1f}"

    line = " ".join(f"{x(number)},{y(each.value, bottom)}" for number, each in enumerate(known))
    band = [f"{x(number)},{y(each.high, top)}" for number, each in enumerate(known)]
    band += [f"{x(number)},{y(each.low, bottom)}" for number, each in reversed(list(enumerate(known)))]
    dots = "".join(
        f'<circle cx="{x(number)}" cy="{y(each.value, bottom)}" r="3" fill="#b3261e">'
        f"<title>{escape(each.message)}</title></circle>"
        for number, each in enumerate(known)
        if not each.met
    )
    return (
        f'<svg width="{width}" height="{height}" role="img"><polygon points="{" ".join(band)}" fill="#dbe9f6"/>'
        f'<polyline points="{line}" fill="none" stroke="#0b62a4" stroke-width="1.2"/>{dots}</svg>'
    )


def _list_runs(spec: SourceSpec, folder: Path) -> None:
    runs = []
    for path in folder.glob("*/summary.txt"):
        with suppress(FileNotFoundError):  # Another run may be removing it just now.
            runs.append((path.stat().st_mtime, path.parent.name, path.read_text(encoding="utf-8")))
    runs.sort(reverse=True)
    for _, name, _ in runs[KEPT:]:
        shutil.rmtree(folder / name, ignore_errors=True)
    rows = [
        [
            f'<a href="{escape(name)}/index.html">{escape(name)}</a>',
            f"{datetime.fromtimestamp(modified, UTC):%Y-%m-%d %H:%M} UTC",
            escape(found),
        ]
        for modified, name, found in runs[:KEPT]
    ]
    head = f"<h1>{escape(spec.title)}</h1><p>Validations, the newest first.</p>"
    body = head + _table(["Run", "When", "Found"], rows)
    staging = folder / f".index-{uuid4().hex[:8]}"
    staging.write_text(_page(spec.title, body), encoding="utf-8")
    os.replace(staging, folder / "index.html")  # noqa: PTH105 - the reader sees the old list or the new one


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _severity(severity: str) -> str:
    return '<span class="bad">block</span>' if severity == "block" else '<span class="warn">warn</span>'


def _day(batch: date | None) -> str:
    return str(batch) if batch else "whole table"
