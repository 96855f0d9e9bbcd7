import os

# Before anything imports jax: CPU only, and several devices, so that splitting across devices is tested everywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

from hypothesis import HealthCheck, settings

settings.register_profile("hydrax", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hydrax")
