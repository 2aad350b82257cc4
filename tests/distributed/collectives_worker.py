"""Checks `distributed.collectives` in one of two processes of four devices each.

Started by test_processes.py as `collectives_worker.py ADDRESS INDEX`; prints "all is
well".

In the mesh, each pair of devices along `tensor` belongs to both processes, as the
topology of a TPU slice may require.
"""

import sys

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from pav_jax.core.errors import UserError
from pav_jax.distributed import collectives, mesh, processes, sharding
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2

ARCHITECTURE = tiny_gemma2(
    16, num_layers=1, embed_dim=8, num_heads=2, mlp_dim=8, num_kv_heads=2
)


def main(address, index):
    processes.join(processes.Coordinator(address, 2, index))
    devices = np.array(jax.devices()).reshape(2, 4).T.reshape(1, 4, 2)
    kinds = (jax.sharding.AxisType.Auto,) * 3
    with jax.set_mesh(Mesh(devices, mesh.AXES, axis_types=kinds)):
        assert collectives.process_count() == 2 and collectives.is_primary() == (
            index == 0
        )
        mine = range(7)[collectives.process_slice(7)]
        assert mine == [range(3), range(3, 7)][index]
        check_weights()
        check_rows(index)
    print("all is well")


def check_weights():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: forward.init_params(jax.random.key(0), ARCHITECTURE)
    )
    host = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    host = jax.tree.map(lambda leaf: leaf.astype(np.float32), host)
    trained = sharding.place(host, sharding.TRAIN)
    assert not trained["embed"].is_fully_addressable
    ours = collectives.gather_params(trained)
    with collectives.local_mesh():
        assert not mesh.spans_processes()
        own = jax.sharding.get_mesh()
        assert dict(own.shape) == {"data": 1, "fsdp": 2, "tensor": 2}
        assert set(own.devices.flat) == set(jax.local_devices())
        wanted = sharding.shardings(shapes, sharding.DECODE)
        for a, b, place in zip(
            *map(jax.tree.leaves, (ours, host, wanted)), strict=True
        ):
            assert a.sharding == place
            np.testing.assert_array_equal(a, b)
        # It can be computed with.
        logits = jax.jit(forward.hidden_states, static_argnames="architecture")
        tokens = np.arange(2, 8).reshape(2, 3)
        assert np.isfinite(logits(ours, tokens, architecture=ARCHITECTURE)).all()


def check_rows(index):
    whole = np.arange(24).reshape(8, 3)
    joined = collectives.global_batch({"x": whole[4 * index :][:4]})["x"]
    active = jax.sharding.get_mesh()
    assert joined.sharding.mesh == active
    assert joined.sharding.spec == PartitionSpec(mesh.BATCH)
    for shard in joined.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    try:
        collectives.global_batch({"x": whole[:3]})
    except UserError as error:
        assert "a batch of 6 rows is not a multiple of data x fsdp = 4" in str(error)
    else:
        raise AssertionError("six rows were put on four devices")
    uneven = whole[: index + 2].astype(np.float32) + index
    rows = collectives.all_gather_rows({"x": uneven, "y": np.arange(index + 2)})
    np.testing.assert_array_equal(rows["x"], np.concatenate([whole[:2], whole[:3] + 1]))
    np.testing.assert_array_equal(rows["y"], [0, 1, 0, 1, 2])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
