"""An app in files, deployed again and again in one process as if each time a new one had begun."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Self

from perdure import Object
from perdure.store.base import Store
from perdure.store.memory import MemoryStore
from perdure.suspend import editions
from tests.host.stage import Stage


class Deploys:
    """`async with Deploys(tmp_path) as app`: `await app.deploy({"shop.py": "…"})`."""

    def __init__(self, folder: Path, store: Store | None = None, **settings: Any) -> None:
        self.folder = folder
        self.store = store if store is not None else MemoryStore()
        self.settings = settings
        self.stage: Stage | None = None
        self.module: Any = None
        self.versions: list[str] = []

    async def __aenter__(self) -> Self:
        sys.path.insert(0, str(self.folder))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.stage is not None and self.stage.node.ready:
            await self.stage.node.drain()
        sys.path.remove(str(self.folder))
        self._forget()

    def _forget(self) -> None:
        editions.forget()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
        importlib.invalidate_caches()

    async def deploy(
        self, files: dict[str, str] | str, *, crash: bool = False, main: str = "app"
    ) -> str:
        """Stop the process, write the files, and begin a new one with them; gives the version."""
        if self.stage is not None:
            if crash:
                await self.stage.crash()
            else:
                await self.stage.node.drain()
        self.write(files, main)
        self.stage = Stage(*self.classes(), store=self.store, **self.settings)
        await self.stage.start()
        self.versions.append(self.stage.host.version)
        return self.versions[-1]

    def write(self, files: dict[str, str] | str, main: str = "app") -> None:
        """Put these files in the place of those that are there, and import them."""
        self._forget()
        for old in self.folder.rglob("*.py"):
            old.unlink()
        for name, source in ({f"{main}.py": files} if isinstance(files, str) else files).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        # Sources of one second and one length would be taken to be the same by their bytecode.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        self.module = importlib.import_module(main)

    def classes(self) -> list[type[Object]]:
        """Those of the main module."""
        return [
            value
            for value in vars(self.module).values()
            if isinstance(value, type) and issubclass(value, Object) and value is not Object
        ]

    def at(self, name: str, key: str) -> Any:
        return getattr(self.module, name).at(key)

    async def history(self, address: str) -> list[dict[str, Any]]:
        from perdure.sight import look

        assert self.stage is not None
        return await look.history(self.stage.host, address, 0, 10_000)
