"""Where the coordinator of several processes listens: it has no password."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import free_address

from frepo_scale.parallel.runtime import _bind_address

TABLES = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]


@pytest.mark.parametrize(
    ("coordinator", "bound"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("localhost:80", "localhost:80"),
        ("[::1]:80", "[::1]:80"),
        ("10.0.0.7:80", None),
        ("node1:80", None),
    ],
)
def test_addresses_of_this_machine_are_bound(coordinator, bound):
    assert _bind_address(coordinator) == bound


def listening(port):
    """The addresses at which something listens on the port, in the kernel's notation."""
    found = []
    for table in TABLES:
        for line in table.read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.append(address)
    return found


@pytest.mark.skipif(not TABLES[1].exists(), reason="needs /proc/net of Linux with IPv6")
def test_on_one_machine_only_that_machine_can_connect():
    address = free_address()
    environment = os.environ | {
        "FREPO_COORDINATOR": address.replace("localhost", "127.0.0.1"),
        "FREPO_PROCESSES": "2",
        "FREPO_PROCESS": "0",
        "JAX_PLATFORMS": "cpu",
    }
    program = "from frepo_scale.parallel.runtime import initialize; initialize()"
    port = int(address.rpartition(":")[2])
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := listening(port)):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
    assert {address[-8:] for address in found} == {"0100007F"}  # 127.0.0.1, or it as IPv6
