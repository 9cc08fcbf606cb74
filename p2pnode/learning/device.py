"""Where JAX computes, asked before anything is computed there.

Which devices there are is JAX's own choice, or that of whoever sets `JAX_PLATFORMS`; a wish that the
machine cannot fulfil is a person's mistake, which JAX answers with a traceback.
"""

import time

import jax
import jax.numpy as jnp

from p2pnode.errors import UserError


def devices() -> list[jax.Device]:
    """The devices that JAX computes on.

    Raises:
        UserError: there are none of the wanted kind.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a backend that is not installed
        wanted = jax.config.values["jax_platforms"] or "any"
        raise UserError(
            f"JAX finds no device for JAX_PLATFORMS={wanted}: install what it needs "
            "(for NVIDIA GPUs `pip install 'p2pnode[cuda]'`), or compute with JAX_PLATFORMS=cpu"
        ) from error


def compiled_step() -> float:
    """Seconds that it takes to compile a small step, run it and see its result.

    Raises:
        UserError: there is no device.
    """
    devices()
    began = time.perf_counter()
    step = jax.jit(jax.value_and_grad(lambda w: jnp.mean((w @ w.T) ** 2)))
    jax.block_until_ready(step(jnp.ones((64, 64))))
    return time.perf_counter() - began
