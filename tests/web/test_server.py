"""Tests of starting the server, and of the parts of Gradio that the page uses."""

import ast
import socket

import pytest
from gradio import networking

from tests.web.test_texts import WEB
from video_module.errors import InputError
from video_module.web.limits import address_of
from video_module.web.server import _listen, _share


def test_error_names_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use; choose another with --port"):
            _listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
def test_error_names_a_host_that_cannot_be_used(host):
    with pytest.raises(InputError, match=r"--host|cannot be used"):
        _listen(host, 7860)


def test_share_tunnels_to_the_listening_port(monkeypatch):
    asked = []
    monkeypatch.setattr(
        networking, "setup_tunnel", lambda **settings: asked.append(settings) or "https://x.gradio.live"
    )
    assert _share("0.0.0.0", 7861) == "https://x.gradio.live"
    assert (asked[0]["local_host"], asked[0]["local_port"]) == ("127.0.0.1", 7861)
    monkeypatch.delattr(networking, "setup_tunnel")
    with pytest.raises(InputError, match="--share"):
        _share("127.0.0.1", 7861)


@pytest.mark.parametrize(
    ("host", "visitor"),
    [
        ("192.168.7.9", "192.168.7.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.168.7.9", "192.168.7.9"),
        ("::1", "::/64"),
        ("testclient", "testclient"),
    ],
)
def test_visitors_are_told_apart_by_ipv4_address_or_ipv6_network(host, visitor):
    request = type("Request", (), {"client": type("Client", (), {"host": host})})
    assert address_of(request) == visitor


def test_only_public_parts_of_gradio_are_used():
    """Allowed are `import gradio` and gradio.networking, for --share, but no private attributes."""
    for file in WEB.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith(("gradio.", "gradio_")) or name == "gradio.networking", file.name
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert isinstance(node.value, ast.Name) and node.value.id == "self", f"{file.name}: {node.attr}"
