import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from ddpm_jax.runtime.cpu import reuse_memory
reuse_memory()
slow = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: x @ x, x)).lower(jnp.ones((500, 500))).compile()
print(slow(jnp.ones((500, 500))).is_ready())
"""


def test_a_program_on_a_cpu_has_ended_when_its_call_returns():
    """Only then has it freed its temporaries, so that the next one can take their memory."""
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


HOLES = """
import jax, jax.numpy as jnp, numpy as np
from ddpm_jax.reporting.memory import resident
from ddpm_jax.runtime.cpu import release_memory, reuse_memory
reuse_memory()
jax.devices()
block = np.ones(2**25, np.uint8)
top = np.ones(2**20, np.uint8)
held = resident()
del block
kept = held - resident()
release_memory()
print(kept / 2**25, (held - resident()) / 2**25)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_stays_until_it_is_released():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True, env=environment)
    kept, released = map(float, found.stdout.split())
    assert kept < 0.1 and released > 0.9
