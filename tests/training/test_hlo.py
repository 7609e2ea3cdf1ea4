import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffbir_jax.training.hlo import traffic


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_a_copy_moves_what_it_reads_and_writes():
    x = jnp.zeros((1000, 100))
    assert traffic(compiled(lambda x: x + 1, x)).bytes == pytest.approx(2 * x.nbytes, rel=0.01)


def test_a_loop_counts_as_often_as_it_runs():
    x, once = jnp.zeros((256, 256)), 3 * 256 * 256 * 4
    product = lambda x, _: (x @ x, None)  # noqa: E731
    few, many = (traffic(compiled(lambda x, n=n: jax.lax.scan(product, x, length=n)[0], x)).bytes for n in (10, 110))
    assert (many - few) / 100 == pytest.approx(once, rel=0.5)  # XLA adds copies of its own


def test_a_loop_whose_count_is_not_stated_is_read_off_its_condition():
    x = jnp.zeros((256, 256))
    stated = compiled(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=50)[0], x)
    bare = re.sub(r'"known_trip_count":\{"n":"50"\},?', "", stated)
    assert bare != stated and traffic(bare) == traffic(stated)


def test_collectives_are_counted_with_their_bytes():
    mesh = Mesh(jax.devices()[:2], ("data",))

    @partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False)
    def mean_of_three(x):
        body = lambda x, _: (jax.lax.pmean(x * 1.5, "data"), None)  # noqa: E731
        return jax.lax.scan(body, x, length=3)[0]

    count, size = traffic(compiled(mean_of_three, jnp.zeros((8, 64)))).collectives["all-reduce"]
    assert (count, size) == (3, 3 * 4 * 64 * 4)


@pytest.mark.parametrize(
    "line, kind, size",
    [
        ("  %a = (f32[8]{0}, f32[64]{0}) all-gather-start(%p), channel_id=1, dimensions={0}", "all-gather", 64 * 4),
        ("  %a = bf16[2,3]{1,0:T(8,128)(2,1)} all-reduce(%p), channel_id=1, to_apply=%add", "all-reduce", 12),
        ("  ROOT %a = f32[8]{0} reduce-scatter(%p), channel_id=1, dimensions={0}, to_apply=%add", "reduce-scatter", 32),
    ],
)
def test_forms_that_other_compilers_write(line, kind, size):
    text = f"HloModule m\n\nENTRY %main (p: f32[8]) -> f32[8] {{\n  %p = f32[8]{{0}} parameter(0)\n{line}\n}}\n"
    assert traffic(text).collectives == {kind: (1, size)}


def test_of_a_long_vector_only_the_slices_are_read():
    vector = jnp.zeros(1_000_000)
    parts = lambda v: [2 * v[i : i + 100] for i in range(0, 10_000, 100)]  # noqa: E731
    assert traffic(compiled(parts, vector)).bytes < 0.2 * vector.nbytes
