from __future__ import annotations

import pytest

from perdure.errors import BadSettings
from perdure.supervisor.listen import is_loopback, listen


def test_a_port_in_use_says_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(BadSettings, match=f"127.0.0.1:{port}") as caught:
            listen("127.0.0.1", port)
    assert f"--port {port + 1}" in str(caught.value)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 80), ("127.0.0.1", 99_999)])
def test_an_address_that_cannot_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(BadSettings):
        listen(host, port)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
