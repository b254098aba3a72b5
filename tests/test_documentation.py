"""What the documentation says of settings, options and files is what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from pabal.cli.main import main
from pabal.server.settings import FILE_ONLY, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *ROOT.glob("examples/*/*.md"),
    ]
)
PLAIN = [each.name for each in fields(Settings) if each.name not in FILE_ONLY]
DEFAULTS_OF_PORTS = {"http_port": "15672", "metrics_port": "15692"}
"""Of those for which the settings say only that they were not given."""


def rows() -> dict[str, tuple[str, str, str]]:
    """Setting -> (variable, options, default), of the first table of docs/configuration.md."""
    text = (ROOT / "docs/configuration.md").read_text()
    table = text[text.index("| TOML, variable |") :].split("\n\n")[0].splitlines()[2:]
    found = {}
    for line in table:
        names, options, default, _ = (cell.strip() for cell in line.strip("|").split("|", 3))
        for name in re.findall(r"`([a-z_]+)`", names):
            found[name] = (", ".join(re.findall(r"`([A-Z_]+)`", names)), options, default.strip("`"))
    return found


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


@pytest.mark.parametrize("name", PLAIN)
def test_each_setting_has_a_row_with_its_default(name: str) -> None:
    variable, _, default = rows()[name]
    assert variable == f"PABAL_{name.upper()}"
    expected = shown(DEFAULTS_OF_PORTS.get(name, getattr(Settings(), name)))
    assert default == (expected or ("none" if name == "http_origins" else ""))


def test_there_is_no_row_without_a_setting() -> None:
    of_the_file = {"operator_policies"}  # a table of the file beside `policies`, in one field with them
    assert set(rows()) - of_the_file == {each.name for each in fields(Settings)}


def test_options_of_serve_are_in_the_table() -> None:
    serve = main.get_command(click.Context(main), "serve")
    assert serve is not None
    told = {option for _, options, _ in rows().values() for option in re.findall(r"--[a-z-]+", options)}
    given = {option for parameter in serve.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert told == given - {"--config"}


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page() -> None:
    links = re.findall(r"\]\((docs/[a-z-]+\.md)\)", (ROOT / "README.md").read_text())
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} == set(links)


def test_decisions_have_numbers_of_their_own() -> None:
    numbers = [page.name[:4] for page in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
