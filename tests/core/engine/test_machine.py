"""Limits of cores and memory, read from trees of files made to look like a machine's."""

import os

import pytest

from hydrax_core.engine.resources.machine import usable_cores, usable_memory

V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
)
SHOWN = "31 23 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def made(membership, mounts, files):
        for name, text in {"proc/self/cgroup": membership, "proc/self/mountinfo": mounts, **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path, total

    return made


def test_a_limit_of_any_group_above_counts_in_version_2(machine):
    root, _ = machine(
        "0::/user.slice/job.service\n",
        V2,
        {
            "sys/fs/cgroup/user.slice/memory.max": f"{1 << 30}\n",
            "sys/fs/cgroup/user.slice/cpu.max": "350000 100000\n",
            "sys/fs/cgroup/user.slice/job.service/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/job.service/cpu.max": "max 100000\n",
        },
    )
    assert (usable_cores(root, {}), usable_memory(root, {})) == (4, 1 << 30)
    (root / "sys/fs/cgroup/user.slice/job.service/memory.high").write_text(f"{1 << 29}\n")
    assert usable_memory(root, {}) == 1 << 29


def test_version_1_is_read_by_controller(machine):
    root, _ = machine(
        "5:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/slurm\n",
        V1,
        {
            "sys/fs/cgroup/memory/slurm/memory.limit_in_bytes": f"{1 << 31}\n",
            "sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes": f"{1 << 28}\n",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/slurm/job_7/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/slurm/cpu.cfs_quota_us": "-1\n",
        },
    )
    assert (usable_cores(root, {}), usable_memory(root, {})) == (2, 1 << 28)


def test_a_container_that_sees_its_own_group_as_the_top_is_read(machine):
    root, _ = machine("5:memory:/docker/abc\n", SHOWN, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 27}\n"})
    assert usable_memory(root, {}) == 1 << 27


def test_slurm_says_what_a_task_has(machine):
    root, total = machine("", "", {})
    assert (usable_cores(root, {}), usable_memory(root, {})) == (64, total)
    assert usable_cores(root, {"SLURM_CPUS_PER_TASK": "8"}) == 8
    assert usable_memory(root, {"SLURM_MEM_PER_NODE": "100"}) == 100 << 20
    assert usable_memory(root, {"SLURM_MEM_PER_CPU": "50", "SLURM_CPUS_PER_TASK": "3"}) == 150 << 20
    assert usable_memory(root, {"SLURM_MEM_PER_NODE": "0"}) == total


def test_what_cannot_be_read_is_no_limit(tmp_path):
    assert usable_cores(tmp_path, {}) == len(os.sched_getaffinity(0))
    assert usable_memory(tmp_path, {}) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
