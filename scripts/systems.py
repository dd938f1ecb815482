"""Writes the table of docs/mechanisms/README.md from what the packages declare.

Example: uv run python scripts/systems.py
"""

from pathlib import Path

from core_attention.commands.listing import paper_line, systems_table
from core_attention.registry import systems

PAGE = Path(__file__).resolve().parents[1] / "docs" / "mechanisms" / "README.md"
BEGIN, END = "<!-- systems -->", "<!-- end -->"
HEADS = ("system", "paper", "published code (licence)", "here", "mechanisms")


def table() -> str:
    """All systems, declared and planned, as Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|---|---|---|---|---|"]
    for row in systems_table():
        held = sum(part["distribution"] is not None for part in row["components"].values())
        here = f"{held} of {len(row['components'])} components" if row["distributions"] else "planned"
        cells = (f"`{row['slug']}`", f"{row['title']} ({row['year']})", paper_line(row), here, _mechanisms(row["slug"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mechanisms(slug: str) -> str:
    """The names of a system's mechanisms, each with a link to its page; else the page of the system."""
    system = systems.system(slug)
    if not system.examples and system.page:
        return f"[its page]({system.page})"
    links = [f"[{name}]({system.pages.get(name, system.page)})" for name in sorted(system.examples)]
    return ", ".join(links)


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
