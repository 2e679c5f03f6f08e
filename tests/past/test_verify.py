"""`verify` finds each mistake that can be found, and none where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.journal.identity import know_aliases
from perdure.kind import Kinds, kind_of
from perdure.past.verify import Finding, Source, Verifier
from perdure.settings import load_settings
from perdure.suspend import editions, probe
from perdure.suspend.bundles import bundle_of
from perdure.suspend.editions import Live
from tests.host.deploys import Deploys
from tests.past.mistakes import APP, HIDDEN, MISTAKES, SEEDED, changed

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


async def live_a_little(app: Deploys) -> None:
    """Some life, of which every mistake changes something."""
    order = app.at("Order", "a")
    for name in ("pen", "ink", "paper", "stamp", "glue", "tape", "lamp", "desk"):
        await order.add(name)
    await order.note("first")
    await order.note("second")
    await order.buy()
    with pytest.raises(ValueError, match="cannot"):
        await order.fail()
    assert await order.later() == "done"
    await app.at("Order", "b").add("pen", 3)
    await perdure.send(order.later)
    await app.at("Other", "c").up()
    assert app.stage is not None
    await app.stage.settle()


async def verified(app: Deploys, source: str) -> dict[str, Finding]:
    """What `verify` says of each object under a source, as a process of its own would."""
    assert app.stage is not None
    await app.stage.node.drain()
    layout = app.stage.node.layout
    app.write(source)
    classes = app.classes()
    version, _ = bundle_of(classes)
    kinds = Kinds({kind_of(cls).name: kind_of(cls) for cls in classes})
    for kind in kinds.values():
        know_aliases(kind.name, kind.aliases)
    live = Live(version, kinds)
    editions.serve(live)
    found = Source(app.store, layout)
    await found.read_tail()
    verifier = Verifier(found, live)
    return {
        f"{kind}/{key}": await verifier.look_at(kind, key) for kind, key in await found.names(None)
    }


async def test_code_that_has_not_changed_is_found_to_be_the_same(tmp_path: Path) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(APP)
        await live_a_little(app)
        findings = await verified(app, APP)
        assert sorted(findings) == ["Order/a", "Order/b", "Order/ledger", "Other/c"]
        assert [one for one in findings.values() if not one.quiet and not one.moves] == []


async def test_a_change_that_changes_nothing_is_none(tmp_path: Path) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(APP)
        await live_a_little(app)
        findings = await verified(app, APP + "\n# in other words\n")
        assert [one.address for one in findings.values() if not one.quiet] == ["Order/a"]
        assert findings["Order/a"].moves


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_found(tmp_path: Path, mistake: str) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(APP)
        await live_a_little(app)
        findings = await verified(app, changed(APP, MISTAKES[mistake]))
        assert any(one.bad for one in findings.values()), findings


@pytest.mark.parametrize("mistake", HIDDEN)
async def test_a_mistake_that_was_there_all_along_is_found(
    tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = changed(APP, HIDDEN[mistake])
    async with Deploys(tmp_path) as app:
        await app.deploy(source)
        await live_a_little(app)
        monkeypatch.setenv("PERDURE_TEST_MISTAKE", "another value")
        findings = await verified(app, source)
        assert any(one.bad for one in findings.values()), findings


async def test_code_that_stays_is_named(tmp_path: Path) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(APP)
        await live_a_little(app)
        findings = await verified(app, changed(APP, MISTAKES["how long is waited"]))
        [stays] = findings["Order/a"].stays
        assert stays["function"] == "Order.later"
        assert stays["version"] == app.versions[0]


async def test_the_turn_behind_which_states_differ_is_told(tmp_path: Path) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(APP)
        await live_a_little(app)
        findings = await verified(app, changed(APP, MISTAKES["the order in a list"]))
        differs = findings["Order/a"].differs
        assert differs is not None
        assert differs["seq"] == 10
        assert differs["changes"][0].startswith("notes[0]: ")


async def test_turns_of_code_that_was_replaced_are_not_held_against_the_new(
    tmp_path: Path,
) -> None:
    async with Deploys(tmp_path) as app:
        await app.deploy(changed(APP, MISTAKES["what is answered"]))
        await live_a_little(app)
        await app.deploy(APP)
        assert await app.at("Order", "a").buy() == "bought"
        findings = await verified(app, APP + "\n# once more\n")
        assert [one for one in findings.values() if one.bad] == []


# --- the command


def fill(data: Path, source: Path) -> None:
    """A data directory with some life in it, made by a process of its own."""
    script = (
        "import asyncio, app\n"
        "from perdure.node import Node\n"
        "from perdure.settings import load_settings\n"
        "async def main():\n"
        f"    node = Node([app.Order, app.Other], load_settings({{'data': {str(data)!r}}}, {{}}))\n"
        "    await node.start()\n"
        "    for key in ('a', 'b'):\n"
        "        for name in ('pen', 'ink', 'paper', 'stamp', 'glue', 'tape', 'lamp', 'desk'):\n"
        "            await app.Order.at(key).add(name)\n"
        "    await node.drain()\n"
        "asyncio.run(main())\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *sys.path])}
    from perdure.store import prepare

    seed = prepare(load_settings({"data": str(data)}, {})).hash_seed
    environ["PYTHONHASHSEED"] = str(seed)
    subprocess.run([sys.executable, "-c", script], env=environ, check=True, timeout=100)


def command(source: Path, data: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "perdure.cli.main", "verify", str(source / "app.py")),
            *("--data", str(data), "--json", *flags),
        ],
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_another_hash_seed_shows_what_one_hides(tmp_path: Path) -> None:
    source, data = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    (source / "app.py").write_text(APP)
    fill(data, source)
    assert command(source, data)[0] == 0
    for mistake in SEEDED.values():
        other = tmp_path / f"data of {len(mistake)}"
        (source / "app.py").write_text(changed(APP, mistake))
        fill(other, source)
        code, report = command(source, other)
        assert code == 1
        [*bad] = report["diverges"] + report["differs"]
        assert {one["under"] for one in bad} == {"another hash seed"}
        assert command(source, other, "--one-seed")[0] == 0
