"""Requests as browsers send them, and as strangers' pages have browsers send them."""

import socket
from http.client import HTTPConnection

PATIENCE_S = 60
FOREIGN = "evil.example"


def status(port: int, method: str, path: str, body: str = "", **headers: str) -> int:
    """host and origin as given; the rest of a header's name with _ for -."""
    return ask(port, method, path, body, **headers)[0]


def ask(port: int, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.putrequest(method, path, skip_host=True)
    own = {"host": f"127.0.0.1:{port}", "content_type": "application/json", "content_length": str(len(body))}
    for name, value in (own | headers).items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def websocket_status(port: int, path: str, **headers: str) -> int:
    """What a websocket's handshake is answered with: 101 where it opens."""
    key = {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==", "sec_websocket_version": "13"}
    given = {"host": f"127.0.0.1:{port}", "upgrade": "websocket", "connection": "Upgrade", **key} | headers
    lines = [f"GET {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in given.items()), "", ""]
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as opened:
        opened.sendall("\r\n".join(lines).encode())
        return int(opened.recv(12).split()[1])
