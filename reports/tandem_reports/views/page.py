"""HTML pages: one file each, everything inside, the same bytes for the same content."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from tandem_reports.errors import BAD_RESULT, ReportError

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Style and script are our own files, not data: they go in as they are.
    environment.globals["include_raw"] = lambda name: markupsafe.Markup((TEMPLATES / name).read_text())
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(text: str) -> markupsafe.Markup:
    """A long name that may break after each of its parts."""
    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[/<,_:])(?=.)", text))


def render(template: str, **content: Any) -> str:
    """Fills a template. Text from records is escaped."""
    return _environment().get_template(template).render(**content)


def write(path: Path, data: str | bytes) -> None:
    """Writes a file, making its folder. Raises ReportError with exit code 1 when it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    except OSError as error:
        raise ReportError(f"{path}: could not write: {error.strerror}", BAD_RESULT) from None
