"""A crawler that is polite: at most one request a second to each host, four pages at a time.

    perdure dev examples/crawler.py

    perdure send Crawl/first run start=https://example.org/ pages=50
    curl http://127.0.0.1:7373/Crawl/first/found

After a crash it goes on where it was: what was fetched is not fetched again. The limit holds for
all crawls of the server together.
"""

import asyncio
import re
from urllib.parse import urldefrag, urljoin, urlsplit

from perdure import Limit, Object, Retry, http, query, step

_LINK = re.compile(r"""href=["']([^"']+)["']""")


def _host(url: str) -> str:
    return urlsplit(url).netloc


@step(retry=Retry(attempts=3), timeout=30, limit=Limit(per_second=1, key=_host))
async def fetch(url: str) -> str:
    """The text of a page."""
    return (await http.get(url, follow_redirects=True)).raise_for_status().text


class Crawl(Object):
    """The pages of one site."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._links: dict[str, list[str]] = {}
        self._failed: dict[str, str] = {}

    async def run(self, start: str, pages: int = 50, workers: int = 4) -> int:
        """Follow links within the site; gives the number of pages that were read."""
        waiting: asyncio.Queue[str] = asyncio.Queue()
        self._seen.add(start)
        waiting.put_nowait(start)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._work(waiting, pages)) for _ in range(workers)]
            await waiting.join()
            for task in tasks:
                task.cancel()
        return len(self._links)

    async def _work(self, waiting: asyncio.Queue[str], pages: int) -> None:
        while True:
            url = await waiting.get()
            try:
                for link in await self._read(url):
                    if link not in self._seen and len(self._seen) < pages:
                        self._seen.add(link)
                        waiting.put_nowait(link)
            except Exception as error:
                self._failed[url] = str(error)
            finally:
                waiting.task_done()

    async def _read(self, url: str) -> list[str]:
        text = await fetch(url)
        links = [urldefrag(urljoin(url, link)).url for link in _LINK.findall(text)]
        self._links[url] = [link for link in links if _host(link) == _host(url)]
        return self._links[url]

    @query
    async def found(self) -> dict[str, list[str]]:
        """Each page with the links on it."""
        return self._links

    @query
    async def failed(self) -> dict[str, str]:
        """What could not be read, and why."""
        return self._failed
