import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffbir_jax import RestoreOptions, executables, programs, restore_images
from diffbir_jax.pipeline import local_mesh


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFBIR_JAX_HOME", str(tmp_path))
    return tmp_path


def fetched(key="doubled"):
    make = jax.jit(lambda x: 2 * x).lower(jnp.zeros(3)).compile
    program = executables.Program(key, local_mesh(1), make)
    reading = program._reading
    assert program(make, jnp.arange(3.0)).tolist() == [0, 2, 4]
    return reading is None or reading.exception() is not None  # what was read may still fail to run


def test_a_program_is_made_once():
    assert [fetched(), fetched(), fetched("another key")] == [True, False, True]


def test_of_a_changed_package_nothing_is_taken(monkeypatch):
    assert fetched()
    monkeypatch.setattr(executables, "_source", lambda: "changed")
    assert fetched()


def test_a_damaged_file_is_made_anew(capsys):
    fetched()
    [place] = executables.folder().iterdir()
    place.write_bytes(place.read_bytes()[:1000])
    assert fetched() and "is made anew" in capsys.readouterr().err
    assert not fetched()


def test_a_program_that_does_not_run_is_made_anew(monkeypatch, capsys):
    def fails(*arguments):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Function f not found")

    fetched()
    with monkeypatch.context() as patch:
        patch.setattr(executables.serialize_executable, "deserialize_and_load", lambda *packed, **devices: fails)
        assert not fetched() and "Function f not found" in capsys.readouterr().err


def test_where_nothing_can_be_written_it_still_runs(home):
    (home / "compiled").write_text("in the way")
    assert fetched() and fetched()


def test_where_programs_cannot_be_stored_it_still_runs(home, monkeypatch):
    def serialize(program):
        raise ValueError("Compilation does not support serialization")

    monkeypatch.setattr(executables.serialize_executable, "serialize", serialize)
    assert fetched() and fetched()


def test_the_longest_unused_go(monkeypatch):
    monkeypatch.setattr(executables, "MOST", 2)
    [fetched(key) for key in "abc"]
    assert len(list(executables.folder().iterdir())) == 2 and fetched("a")


def test_a_second_start_compiles_nothing_and_restores_the_same(small_model, monkeypatch, capsys):
    def start():
        monkeypatch.setattr(programs, "_programs", {})
        before = len(programs.compiled)
        [image] = restore_images(small_model, [photo], RestoreOptions(steps=2))
        return len(programs.compiled) - before, image

    photo = np.random.default_rng(0).random((40, 48, 3), np.float32)
    (first, image), (second, again) = start(), start()
    anew = capsys.readouterr().err.count("is made anew")  # XLA may not find a function of what was read
    assert (first, second) == (4, anew) and anew < 4 and np.array_equal(image, again)
