"""The report of profile results as one HTML page that needs nothing else: pictures, tables and explanations are inside."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

from benchmarks.reports.profile_columns import explained
from benchmarks.reports.profile_results import Result

Row = Mapping[str, Any]
_VERSIONS = ("python", "torch", "transformers", "numpy", "cuda", "cudnn")


@dataclass(frozen=True)
class Picture:
    """A picture of the report.

    Attributes
    ----------
    name
        Name of its file.
    caption
        What it shows.
    png
        The picture.
    """

    name: str
    caption: str
    png: bytes

    @property
    def data(self) -> str:
        """The picture as text for a page."""
        return base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes
    ----------
    title
        What it holds.
    columns
        Names of its columns.
    rows
        Its cells as text.
    is_open
        Whether the page shows it from the start.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_open: bool = False

    @classmethod
    def of(cls, title: str, points: Sequence[Row], is_open: bool = False) -> "Table":
        """Make a table of all figures of ``points``. Lists and mappings inside a point are left out: the result file has them."""
        columns = list(
            dict.fromkeys(name for point in points for name, value in point.items() if not isinstance(value, list | dict))
        )
        return cls(title, columns, [[_cell(point.get(column)) for column in columns] for point in points], is_open)


@dataclass(frozen=True)
class Section:
    """A result file on the page.

    Attributes
    ----------
    heading
        Kind of measurement, model and machine.
    facts
        Name and value of what holds for all its points.
    tables
        Its tables.
    """

    heading: str
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.4e}"
    return str(value)


def section(result: Result) -> Section:
    """Arrange a result file for the page."""
    content, machine = result.content, result.content["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in _VERSIONS if name in machine)
    facts = [
        ("file", str(result.path)),
        ("command", str(content.get("command", "not recorded"))),
        ("machine", result.machine),
        ("model", result.model),
        ("versions", versions or "not recorded"),
        ("result format", f"version {content['version']}"),
        ("source", content.get("source", "")),
        ("note", content.get("prediction", content.get("note", ""))),
        ("remarks", "; ".join(content.get("remarks", []))),
    ]
    tables = [Table.of("in short", _short(content), is_open=True), Table.of("all figures", content["points"])]
    if result.kind == "trace":
        tables = [Table.of("parts of the time (ms)", [_parts(point) for point in content["points"]]), *tables]
    if result.kind == "predict":
        tables = [_rates(content), Table.of("how far the model was off", content["errors"]), *tables, _stages(content)]
    return Section(
        f"{result.kind}: {result.model} on {result.machine}", [fact for fact in facts if fact[1]], [t for t in tables if t.rows]
    )


def _short(content: Row) -> Sequence[Row]:
    """Return the rows of the table that the terminal shows."""
    from erecap.profiling.cli import summary  # takes seconds: imports torch

    return summary(dict(content))


def _parts(point: Row) -> Row:
    return {"prompt_tokens": point["prompt_tokens"], "keep": point["keep"], **point.get("parts_ms", {})}


def _rates(content: Row) -> Table:
    from erecap.profiling.predict_command import rate_rows  # takes seconds: imports torch

    return Table.of("what the prediction starts from", rate_rows(dict(content)))


def _stages(content: Row) -> Table:
    keys = ("prompt_tokens", "keep", "parallel", "devices")
    rows = [{key: point[key] for key in keys} | stage for point in content["points"] for stage in point.get("stages", [])]
    return Table.of("by stage of the pruning schedule", rows)


def render_page(title: str, pictures: Sequence[Picture], gaps: Sequence[str], results: Sequence[Result]) -> str:
    """Write the page.

    Parameters
    ----------
    title
        Its title.
    pictures
        Its pictures, in order.
    gaps
        What was not measured, in words.
    results
        The result files; each becomes a section with tables of all its figures.
    """
    sections = [_section(result) for result in results]
    columns = explained(column for part in sections for table in part.tables for column in table.columns if not _is_part(table))
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    return template.render(title=title, pictures=pictures, gaps=gaps, sections=sections, columns=columns)


def _section(result: Result) -> Section:
    try:
        return section(result)
    except KeyError as error:
        raise ValueError(f"{result.path} lacks the figure {error}: measure again, or leave the file out") from error


def _is_part(table: Table) -> bool:
    """Tell the table of a trace, whose columns are parts of the model."""
    return table.title.startswith("parts")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1240px; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
figure { margin: 1.5rem 0; } figcaption { color: #555; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #e5e5e5; text-align: right; white-space: nowrap; }
th { background: #f5f5f5; }
.facts td, .facts th, .columns td, .columns th { text-align: left; white-space: normal; vertical-align: top; }
summary { cursor: pointer; font-weight: 600; margin: .4rem 0; } code { background: #f5f5f5; padding: 0 .2rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<nav><ul>
{% for part in sections %}
<li><a href="#r{{ loop.index }}">{{ part.heading }}</a></li>
{% endfor %}
<li><a href="#columns">What the columns mean</a></li>
</ul></nav>
<h2>Figures</h2>
{% for picture in pictures %}
<figure><img alt="{{ picture.caption }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
{% if gaps %}
<h2>Not measured</h2>
<ul>{% for gap in gaps %}<li>{{ gap }}</li>{% endfor %}</ul>
{% endif %}
<h2>Results</h2>
{% for part in sections %}
<h3 id="r{{ loop.index }}">{{ part.heading }}</h3>
<table class="facts">
{% for name, value in part.facts %}
<tr><th>{{ name }}</th><td>{% if name == "command" %}<code>{{ value }}</code>{% else %}{{ value }}{% endif %}</td></tr>
{% endfor %}
</table>
{% for table in part.tables %}
<details{{ " open" if table.is_open else "" }}><summary>{{ table.title }} ({{ table.rows | length }} rows)</summary>
<div class="scroll"><table>
<tr>{% for column in table.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table></div></details>
{% endfor %}
{% endfor %}
<h2 id="columns">What the columns mean</h2>
<table class="columns">
{% for name, meaning in columns %}
<tr><th><code>{{ name }}</code></th><td>{{ meaning }}</td></tr>
{% endfor %}
</table>
</body>
</html>
"""
