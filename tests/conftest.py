import os
import signal
import sys

# Before anything imports jax: CPU only, and several devices, so that splitting across devices is tested everywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

# A job in the background starts with Ctrl-C ignored, one of nohup with SIGHUP; so would the programs that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import cloudpickle
from hypothesis import HealthCheck, settings

settings.register_profile("hydrax", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hydrax")


def pytest_collection_finish(session):
    """Functions of test modules travel by value: a worker would import pytest and jax, too, 1 to 2 s of a core each."""
    for name in {item.module.__name__ for item in session.items}:
        cloudpickle.register_pickle_by_value(sys.modules[name])
