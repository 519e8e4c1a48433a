"""The measurement as one plain HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
div { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
th { font-weight: 600 } td.number { text-align: right; white-space: nowrap }
.yes { color: #176e32 } .no { color: #a11212 } .note { color: #555 }
"""
TITLES = {
    "machine": "The machine",
    "reading": "Reading texts: the encoders' engines",
    "memory": "When memory runs out",
    "fits": "Time and memory of fits",
    "agreement": "The same decisions as on a CPU",
}


def render(found: Mapping[str, Any]) -> str:
    """The page of what `run.measure` found; whatever a part left out is on it."""
    facts = found["parts"].get("machine", {}).get("facts", {})
    title = f"prbench on {facts.get('gpu', facts.get('processor', 'this machine'))}"
    body = [f"<h1>{escape(title)}</h1>"]
    if not found["on_gpu"]:
        body.append(f'<p class="no"><strong>{escape(str(found["what"]))}.</strong></p>')
    commit = str(found["commit"])[:12] or "unknown"
    body.append(
        f'<p class="note">prbench {escape(str(found["prbench"]))}, commit {escape(commit)}, '
        f"{escape(str(found['begun']))}; {found['seconds']:.0f} of {60 * found['minutes_allowed']:.0f} seconds; size "
        f"{escape(str(found['size']))}.</p>"
    )
    goals = [goal for part in found["parts"].values() for goal in part["goals"]]
    body += ["<h2>Goals</h2>", _goals(goals, found["on_gpu"])]
    for name, part in found["parts"].items():
        body += [f"<h2>{escape(TITLES.get(name, name))}</h2>", _facts(part["facts"]), _table(part["rows"])]
        if part["left_out"]:
            items = "".join(f"<li>{escape(line)}</li>" for line in part["left_out"])
            body.append(f"<p>Left out:</p><ul>{items}</ul>")
        body.append(f'<p class="note">{part["seconds"]:.0f} seconds.</p>')
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(filter(None, body))}\n</body></html>\n"
    )


def _goals(goals: Sequence[Mapping[str, Any]], on_gpu: bool) -> str:
    rows = []
    for goal in goals:
        met = goal["met"]
        word = "not measured" if met is None else "met" if met else "missed"
        if not on_gpu and met is not None:
            word += ", not on a GPU"
        measured = "" if goal["measured"] is None else f"{_shown(goal['measured'])} {goal['unit']}"
        colour = "note" if met is None or not on_gpu else "yes" if met else "no"
        rows.append(
            f'<tr><td>{escape(goal["goal"])}</td><td>{escape(measured)}</td><td class="{colour}">{word}</td></tr>'
        )
    head = "<tr><th>goal</th><th>measured</th><th></th></tr>"
    return f"<div><table>{head}{''.join(rows)}</table></div>"


def _facts(facts: Mapping[str, Any]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        lines.append(f"<tr><th>{escape(_words(name))}</th><td>{escape(_shown(value))}</td></tr>")
    return f"<div><table>{''.join(lines)}</table></div><p></p>" if lines else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(_words(name))}</th>" for name in columns)
    lines = []
    for row in rows:
        cells = []
        for name in columns:
            value = row.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            start = '<td class="number">' if number else "<td>"
            cells.append(f"{start}{escape(_shown(value))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(_shown, value)) or "none" if isinstance(value, list | tuple) else str(value)
