"""The files of the report of a pull request: Markdown with images, and the same as a comment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_platform.console.ci.report import CiReport, ci_report
from ml_platform.console.lineage import declared_lineage
from ml_platform.console.site.pages import render
from ml_platform.data.atomic import write_bytes, write_text
from resources.home import Home
from resources.profiles import REPOSITORY

REPORT_FILE, COMMENT_FILE, IMAGES = "report.md", "comment.md", "images"

COMMENT_CHARACTERS = 60_000
"""Longest comment; GitHub takes 65,536 characters. A longer one goes without its model card."""

SHOWN = 12
"""Rows of a table of slices, columns or changes."""


@dataclass(frozen=True)
class CiReportFiles:
    """The written report, as ``report`` with images beside it, and as ``comment`` for a pull request."""

    content: CiReport
    report: Path
    comment: Path


def write_ci_report(home: Home, model: str, partition: str, folder: Path, image_address: str) -> CiReportFiles:
    """Write the report on the candidate of ``partition`` (empty: the one that was judged last) to ``folder``.

    Raises as :func:`~ml_platform.console.ci.report.ci_report`.
    """
    from ml_platform.components.loading import bound_model
    from ml_platform.components.project import read_project
    from ml_platform.components.stores import open_home_stores

    lineage = declared_lineage(read_project(REPOSITORY))
    found = ci_report(bound_model(model), partition, open_home_stores(home), lineage)
    return write_files(found, folder, image_address)


def write_files(found: CiReport, folder: Path, image_address: str = "") -> CiReportFiles:
    """Write ``found`` to ``folder``.

    The comment has images only if ``image_address`` says where they are published: a comment cannot contain files.
    """
    names = {title: f"{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')}.png" for title in found.images}
    for title, image in found.images.items():
        write_bytes(folder / IMAGES / names[title], image)
    address = image_address.rstrip("/")
    published = {title: f"{address}/{name}" for title, name in names.items()} if address else {}
    files = CiReportFiles(found, folder / REPORT_FILE, folder / COMMENT_FILE)
    write_text(files.report, report_text(found, {title: f"{IMAGES}/{name}" for title, name in names.items()}))
    comment = report_text(found, published)
    if len(comment) > COMMENT_CHARACTERS:
        comment = report_text(found, published, card=False)
    write_text(files.comment, comment)
    return files


def report_text(report: CiReport, images: Mapping[str, str], *, card: bool = True) -> str:
    """Return the report as Markdown; ``images`` are their addresses by title, and without ``card`` that is left out."""
    text = render("ci_report.md.j2", report=report, images=images, card=card, cell=cell, shown=SHOWN)
    return re.sub(r"\n{3,}", "\n\n", text)


def cell(value: Any) -> str:
    """Return ``value`` for a cell of a Markdown table: on one line, without a bar or a tag, None as a dash.

    >>> cell("a|<b>"), cell(0.123456), cell(None)
    ('a\\\\|&lt;b>', '0.1235', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
