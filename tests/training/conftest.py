"""Small runs, and a cache of compiled programs, which most of their time would go to."""

import os

import jax
import pytest
from toy import write_photos


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    os.environ |= {name.upper(): str(value) for name, value in settings.items()}  # of processes that tests start
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
        os.environ.pop(name.upper())


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), 5)


@pytest.fixture
def recipe_of(photos, tmp_path):
    """(name, **changes) -> the recipe of a small stage 1 whose model folder is called `name`."""
    from tests.training.runs import small_stage1

    return lambda name, **changes: small_stage1(photos, tmp_path / name / "model", **changes)
