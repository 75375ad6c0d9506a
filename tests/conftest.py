"""Several CPU devices, strict ranks, and a tiny trained network and family for all tests."""

import collections
import contextlib
import dataclasses
import fcntl
import gc
import os
import pickle
from pathlib import Path

import pytest

DEVICES = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
# Flags of XLA that compile in a third of the time what runs slower, and their values for users:
# no fused loops, hardly any optimization, and no parts for threads, which would share two cores.
# They are the process's own, so that what it compiles is found again by the processes that it
# starts: the flags are part of the cache's keys. Level 1 would run a training step in 0.6 of the
# time and compile it in five times as much.
HASTY = {
    "xla_cpu_use_fusion_emitters": (False, True),
    "xla_llvm_disable_expensive_passes": (True, False),
    "xla_backend_optimization_level": (0, 3),
    "xla_cpu_parallel_codegen_split_count": (1, 32),
}
OPTIMIZED = [(flag, usual) for flag, (_, usual) in HASTY.items()]
os.environ["XLA_FLAGS"] = " ".join(
    [DEVICES, *(f"--{flag}={hasty}".lower() for flag, (hasty, _) in HASTY.items())]
)
# More threads than fake devices: a device that waits for the others keeps one busy.
os.environ.setdefault("NPROC", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# What is compiled once, here or in a subprocess, is found again, small programs too: every module
# and every process needs the same few hundred of them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# A trace makes many objects that stay: with Python's own thresholds the collector looks through
# them again and again, 5 % of the time.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_modifyitems(items):
    """Files of many slow tests come first: a long one that starts last leaves a core idle."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Frees what a module compiled: thousands of programs exceed a process's memory mappings."""
    yield
    import jax

    jax.clear_caches()


@contextlib.contextmanager
def _optimized():
    """Compiles inside as users do, in this process and in those that it starts."""
    import jax
    from jax._src import compiler

    jax.devices()  # XLA reads its flags from the environment once, with its first client

    def options(*args, **kwargs):
        found = compile_options(*args, **kwargs)
        found.env_option_overrides = [*found.env_option_overrides, *OPTIMIZED]
        return found

    compile_options = compiler.get_compile_options
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", DEVICES)
        patch.setattr(compiler, "get_compile_options", options)
        yield


@pytest.fixture(scope="module", autouse=True)
def _compilation(request):
    """Modules about numbers and bytes are marked `optimized` and compile as users do.

    So does `test_quickstart_as_a_user_runs_it`. Others compile in half of the time what then runs
    slower, here and in processes that are started.
    """
    if request.node.get_closest_marker("optimized") is None:
        yield
    else:
        with _optimized():
            yield


@pytest.fixture(scope="session")
def compiles():
    """A context manager that counts the programs compiled inside it: `with compiles() as n`."""
    import jax

    events = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)

    @contextlib.contextmanager
    def count():
        inside = []
        before = len(events)
        yield inside
        inside.extend(events[before:])

    return count


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function that makes a thing once for all processes of a run of the tests: (name, make)."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def get(name, make):
        path = folder / f"{name}.pickle"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the other process waits for it
            if not path.exists():
                made = pickle.dumps(make())
                path.write_bytes(made)
        return pickle.loads(path.read_bytes())

    return get


@pytest.fixture(scope="session")
def tiny_training(made_once):
    """A backbone trained for seconds: (config, variables, report, losses as it went)."""
    from jaxsplit.data import Preprocessing
    from jaxsplit.train.backbone import BackboneConfig, train_backbone

    config = BackboneConfig(
        model="resnet8_small",
        data="embedded",
        preprocessing=Preprocessing((12, 12), 1, mean=(0.3,), std=(0.35,)),
        epochs=8,
        batch_size=32,
        max_samples=256,
    )

    def make():
        losses = []
        with _optimized():  # whichever module asks first
            variables, report = train_backbone(
                config, None, lambda done, total, metrics: losses.append(float(metrics["loss"]))
            )
        return config, variables, report, losses

    return made_once("tiny_training", make)


@pytest.fixture(scope="session")
def tiny_backbone(tiny_training):
    """ResNet-8 for images of 12 × 12, trained for seconds on a few of the embedded images."""
    from jaxsplit import data, networks

    config, variables, _, _ = tiny_training
    names = data.open_source("embedded").class_names
    return networks.Backbone(
        name=config.model,
        network=networks.create(config.model, len(names)),
        variables=variables,
        preprocessing=config.preprocessing,
        task=names,
        fingerprint=networks.fingerprint(variables),
        card={},
    )


@pytest.fixture(scope="session")
def tiny_config():
    """A curve of three rates with latents of 3 × 3 × 3, without a tail in the loss."""
    from jaxsplit.train.curve import CurveConfig
    from jaxsplit.train.losses import Distortion
    from jaxsplit.train.step import Phase, Rate
    from jaxsplit.units.bottleneck import BottleneckSpec

    return CurveConfig(
        backbone="",
        cut="stage2.block1",
        spec=BottleneckSpec(channels=3, stride=2),
        rates=(Rate("high", 3e-5), Rate("mid", 3e-4), Rate("low", 2e-3)),
        phases=(Phase(600, Distortion(distillation=0, features=1)),),
        max_samples=512,
        batch_size=32,
        learning_rate=2e-2,
    )


@pytest.fixture(scope="session")
def tiny_family(tiny_config, tiny_backbone, made_once):
    """The family that `tiny_config` gives; treat it as read-only."""
    import jax

    from jaxsplit.train import parallel
    from jaxsplit.train.curve import train_curve

    # Half of the time: one device, and the vectorization that compiles soonest.
    config = dataclasses.replace(tiny_config, rate_vectorization="vmap")

    def make():
        with _optimized(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel, "devices_for", lambda batch_size: jax.devices()[:1])
            return train_curve(config, tiny_backbone)

    return made_once("tiny_family", make).bind(tiny_backbone)


@pytest.fixture(scope="session")
def tiny_test_source():
    """Labelled images that nothing tiny was trained on."""
    from jaxsplit import data

    return data.open_source("embedded", split="test", max_samples=200)


@pytest.fixture(scope="session")
def tiny_images(tiny_backbone, tiny_test_source):
    """The images of `tiny_test_source`, uint8 [200, 12, 12, 1]."""
    from jaxsplit import data

    return data.load_arrays(tiny_test_source, tiny_backbone.preprocessing)[0]


@pytest.fixture
def other_backbone(tiny_backbone):
    """The same network with one weight changed."""
    import jax

    from jaxsplit import networks

    leaves, structure = jax.tree.flatten(tiny_backbone.variables)
    leaves[-1] = leaves[-1] + 1
    variables = jax.tree.unflatten(structure, leaves)
    return dataclasses.replace(
        tiny_backbone, variables=variables, fingerprint=networks.fingerprint(variables)
    )
