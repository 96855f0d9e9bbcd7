"""Several hosts, which are processes here, as ``jax.distributed`` has them; each with two devices."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(__file__).with_name("hostrun.py")
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": str(Path(__file__).parents[3]),
}


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def run_hosts(count, *settings, seconds=120, until=None):
    """What each host prints last, as JSON, or its errors; ``settings`` are dicts, for all hosts or one for each.

    As soon as ``until()`` is true, all hosts are killed, and ``None`` is returned.
    """
    address = free_address()
    given = settings * count if len(settings) == 1 else settings
    hosts = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(index), str(count), address, json.dumps(setting)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for index, setting in enumerate(given)
    ]
    try:
        if until is not None:
            deadline = time.monotonic() + seconds
            while not until():
                assert time.monotonic() < deadline
                assert all(host.poll() is None for host in hosts), hosts[0].communicate()
                time.sleep(0.01)
            return None
        answers = [host.communicate(timeout=seconds) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
            with host:  # which closes its pipes
                pass
    for host, (_, errors) in zip(hosts, answers, strict=True):
        assert host.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in answers]
