import subprocess
import sys

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
