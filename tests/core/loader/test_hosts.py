"""Two hosts, which are two processes here, as jax has them."""

import json
import socket
import subprocess
import sys
import textwrap

PROGRAM = textwrap.dedent(
    """
    import contextlib, json, sys
    import jax, numpy as np
    from hydrax_core import DataGroup, Dataloader, PlacementError

    host, address = int(sys.argv[1]), sys.argv[2]
    jax.distributed.initialize(address, num_processes=2, process_id=host)
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices(), "batch"), jax.sharding.PartitionSpec("batch")
    )

    def load(item, arrays, seed):
        arrays["x"][...] = item

    def place(arrays, layouts, additional, group):
        return {name: jax.make_array_from_process_local_data(everywhere, rows) for name, rows in arrays.items()}

    items = range(16)[host::2]
    group = DataGroup(4, items, loader_arrays={"x": ((3,), np.float32)})
    found = []
    with Dataloader(load, group, placement_func=place, end_at=("epoch", 1)) as loader:
        for batch in loader:
            array = batch.arrays["x"]
            rows = np.concatenate([np.asarray(shard.data) for shard in array.addressable_shards])
            found.append([array.shape[0], rows[:, 0].tolist(), list(batch.data)])
    two = {"x": ((3,), np.float32), "label": ((), np.int32)}
    try:
        wrong = lambda *given: {**place(*given), "label": jax.numpy.zeros(8, np.int32)}
        next(Dataloader(load, group.replace(loader_arrays=two), placement_func=wrong))
    except PlacementError as error:
        found.append(str(error))
    narrow = group.replace(loader_arrays={"x": ((3,), np.uint8, np.float32)})
    local = lambda arrays, *_: {name: jax.device_put(rows) for name, rows in arrays.items()}
    with getattr(jax, "set_mesh", contextlib.nullcontext)(everywhere.mesh):
        for function in (None, local):
            with Dataloader(load, narrow, placement_func=function, end_at=("epoch", 1)) as loader:
                for batch in loader:
                    array = batch.arrays["x"]
                    rows = np.concatenate([np.asarray(shard.data) for shard in array.addressable_shards])
                    found.append([array.is_fully_addressable, str(array.dtype), rows[:, 0].tolist()])
    print(json.dumps(found), flush=True)
    """
)


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_each_host_loads_its_rows_of_arrays_that_span_all_or_of_its_own_whatever_mesh_is_set():
    """An array that claims to be replicated over hosts has to hold the same rows on each."""
    address = free_address()
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(host), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(2)
    ]
    try:
        answers = [host.communicate(timeout=110) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    for number, (host, (output, errors)) in enumerate(zip(hosts, answers, strict=True)):
        assert host.returncode == 0, errors
        own = list(range(16))[number::2]
        *batches, refusal = (found := json.loads(output.splitlines()[-1]))[:3]
        assert found[3:] == [[True, "float32", own[:4]], [True, "float32", own[4:]]] * 2
        assert batches == [[8, own[:4], own[:4]], [8, own[4:], own[4:]]]
        assert refusal == "placement_func: 'label' is int32[8], declared is int32[4]"
