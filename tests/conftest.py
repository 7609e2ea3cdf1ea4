import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is LLVM's, for programs that run once; XLA_FLAGS=--xla_backend_optimization_level=3 tests what users run.
flags = ["--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1"]
flags += [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=2"]
os.environ["XLA_FLAGS"] = " ".join(flags)

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory):
    """Compiled programs are shared by the tests and by no one else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFBIR_JAX_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def small_model_folder(tmp_path_factory):
    from toy import write_model

    from diffbir_jax.models.swinir import SwinIR

    return write_model(
        tmp_path_factory.mktemp("model"), SwinIR(embed_dim=8, depths=(2,), heads=(2,), unshuffle=2, features=8, residual=True)
    )


@pytest.fixture(scope="session")
def small_model(small_model_folder):
    from diffbir_jax.model import load_model

    return load_model(small_model_folder)
