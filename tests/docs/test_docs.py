"""The documents say what is there: each name, setting, code and command, and their examples run.

Blocks of a page marked `python run` are one module, in their order; those marked `python check`
run behind it, with an App serving the module's classes, and may await. Lines of `console session`
blocks are sent to the real server, in test_readme.py.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import re
import sqlite3
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest

import perdure
from perdure import errors
from perdure.gateway.http import GatewayStats
from perdure.gateway.metrics import expose
from perdure.gateway.problem import CODES
from perdure.host.host import HostStats
from perdure.journal import entry
from perdure.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, info: str) -> list[str]:
    """The code blocks of a page whose first line is ```info."""
    text = page.read_text(encoding="utf-8")
    return [body for found, body in BLOCK.findall(text) if found.strip() == info]


def rows(section: str) -> Iterator[list[str]]:
    """The table rows of a section of the reference, as their cells."""
    _, _, rest = REFERENCE.partition(f"\n## {section}\n")
    assert rest, f"docs/reference.md has no section {section}"
    for line in re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def named_in(section: str, column: int = 0) -> set[str]:
    """What stands in backticks in a column of a section's tables."""
    return {name for cells in rows(section) for name in re.findall(r"`([^`]+)`", cells[column])}


def error_classes() -> dict[str, type[errors.PerdureError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.PerdureError)
    }


# --- the reference is complete, and holds nothing else


def test_each_public_name_is_in_the_reference() -> None:
    known = named_in("Names") | named_in("Errors")
    assert {name for name in perdure.__all__ if not name.startswith("__")} - known == set()


def test_the_reference_names_nothing_that_is_not_public() -> None:
    plain = {name for name in named_in("Names") if name.isidentifier()}
    assert plain - set(perdure.__all__) == set()


def test_each_error_is_in_the_reference_with_its_code() -> None:
    documented = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Errors")}
    assert documented == {name: error.code for name, error in error_classes().items()}


def test_each_error_is_public() -> None:
    assert set(error_classes()) - set(perdure.__all__) == set()


def test_each_code_of_a_problem_is_in_the_reference_with_its_status() -> None:
    documented = {
        cells[0].strip("`"): int(cells[1])
        for cells in rows("HTTP")
        if len(cells) == 3 and cells[1].isdigit()
    }
    assert documented == {code: status for code, (status, _) in CODES.items()}


def test_each_error_that_has_a_status_agrees_with_the_table_of_problems() -> None:
    for name, code, status, _ in rows("Errors"):
        if status and code.strip("`") in CODES:
            assert int(status) == CODES[code.strip("`")][0], name


def test_each_setting_is_in_the_reference() -> None:
    assert named_in("Settings") >= {field.name for field in fields(Settings)}
    documented = {cells[0].strip("`") for cells in rows("Settings")}
    assert documented == {field.name for field in fields(Settings)}


def test_each_table_and_column_is_in_the_page_about_data() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    lines = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}
    schema = sqlite3.connect(":memory:")
    for path in sorted((ROOT / "perdure" / "store" / "schema" / "sqlite").glob("*.sql")):
        schema.executescript(path.read_text(encoding="utf-8"))
    listed = schema.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    tables = [name for (name,) in listed.fetchall()]
    missing = [
        f"{table}.{column}"
        for table in tables
        for _, column, *_ in schema.execute(f"PRAGMA table_info({table})")
        if f"`{column}`" not in lines.get(table, "")
    ]
    assert tables
    assert missing == []


def test_each_event_and_command_is_in_the_page_about_data() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    kinds = [*get_args(entry.Event), *get_args(entry.Command)]
    assert [kind for kind in kinds if f"| `{kind.__struct_config__.tag}` |" not in page] == []


def test_each_metric_is_in_the_reference() -> None:
    page = expose(GatewayStats(0, {}), HostStats(*[0] * len(HostStats._fields))).decode()
    told = {cells[0].strip("`"): cells[1] for cells in rows("Metrics")}
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
    assert told == {name.removesuffix("_total"): kind for name, kind in found.items()}


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Each command of the command line, without the groups."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, (*path, name))
    elif not group.hidden:
        yield path


def all_commands() -> set[tuple[str, ...]]:
    from perdure.cli import main

    return set(commands(main.commands))


def test_each_command_is_in_the_reference() -> None:
    # `perdure quarantine retry ADDRESS` is the command (quarantine, retry).
    documented = set()
    for text in named_in("Command line"):
        words = text.split()
        if words[0] == "perdure":
            documented.add(tuple(word for word in words[1:] if re.fullmatch("[a-z][a-z-]*", word)))
    assert documented == all_commands()


def test_each_command_that_a_page_mentions_exists() -> None:
    known = all_commands()
    heads = {path[:n] for path in known for n in range(1, len(path) + 1)}
    unknown = []
    for page in PAGES:
        for words in re.findall(r"`perdure ([a-z][^`\n]*)`", page.read_text(encoding="utf-8")):
            first = words.split()[0]
            if (first,) not in heads:
                unknown.append(f"{page.name}: perdure {words}")
    assert unknown == []


# --- links lead somewhere


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


# --- dependencies are argued for


def test_each_dependency_has_a_decision_and_is_used() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=!;\s]", line)[0] for line in project["dependencies"]]
    decisions = "".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "decisions").glob("0*.md")
    )
    imported = {
        alias.split(".")[0]
        for path in (ROOT / "perdure").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for alias in (
            [name.name for name in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert [name for name in names if f"**{name}**" not in decisions.lower()] == []
    assert [name for name in names if name.replace("-", "_") not in imported] == []


def test_the_changelog_knows_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {project['version']}" in changelog


def test_the_readme_shows_the_example_as_it_is() -> None:
    shown = blocks(ROOT / "README.md", "python")[0]
    shown_tree = ast.dump(ast.parse(shown))
    example = ast.parse((ROOT / "examples" / "counter.py").read_text(encoding="utf-8"))
    del example.body[0]  # its docstring, with the curl lines
    assert ast.dump(example) == shown_tree


# --- examples run


def page_module(page: Path, folder: Path) -> ModuleType:
    """The `python run` blocks of a page as a module."""
    name = f"page_{page.stem}"
    path = folder / f"{name}.py"
    path.write_text("\n\n".join(blocks(page, "python run")), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PAGES_THAT_RUN = [page for page in PAGES if blocks(page, "python run")]


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    module = page_module(page, tmp_path)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, perdure.Object)
        and value.__module__ == module.__name__
    ]
    checks = blocks(page, "python check")
    assert classes
    assert checks

    async def run() -> None:
        app = perdure.App(classes, store="memory:")
        async with app.lifespan(app):
            for check in checks:
                code = compile(
                    check, f"{page.name} (check)", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                )
                done: Any = eval(code, vars(module))
                if inspect.isawaitable(done):
                    await done

    asyncio.run(run())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_a_page_can_be_parsed(page: Path) -> None:
    for body in [*blocks(page, "python"), *blocks(page, "python run")]:
        ast.parse(body)
