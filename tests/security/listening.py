"""Where the processes of a tree listen, as Linux tells it."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"


def reachable_from_elsewhere(pid: int) -> list[str]:
    """`address:port` of every TCP socket of the process and those below it that listens on more than loopback."""
    told = [(address, port) for tree in family(pid) for address, port in listening(tree)]
    assert told, f"nothing listens below process {pid}"
    return [f"{address}:{port}" for address, port in told if not is_loopback(address)]


def family(pid: int) -> Iterator[int]:
    yield pid
    for child in PROC.glob(f"{pid}/task/*/children"):
        for number in child.read_text().split():
            yield from family(int(number))


def listening(pid: int) -> Iterator[tuple[IPv4Address | IPv6Address, int]]:
    own = {inode for inode in map(socket_inode, files_of(pid)) if inode}
    for table in (PROC / str(pid) / "net" / name for name in ("tcp", "tcp6")):
        for line in table.read_text().splitlines()[1:] if table.is_file() else []:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and inode in own:
                address, port = local.split(":")
                yield ip_address(b"".join(words(bytes.fromhex(address)))), int(port, 16)


def files_of(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "fd").iterdir())
    except OSError:  # it has ended
        return []


def socket_inode(file: Path) -> str | None:
    try:
        target = str(file.readlink())
    except OSError:
        return None
    return target.removeprefix("socket:[").removesuffix("]") if target.startswith("socket:[") else None


def words(address: bytes) -> Iterator[bytes]:
    """The kernel writes an address as words of the machine's own byte order."""
    return (address[i : i + 4][::-1] for i in range(0, len(address), 4))


def is_loopback(address: IPv4Address | IPv6Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
