"""Compiled programs kept on disk, so that a node's next start does not wait for the compiler.

JAX keys each entry by the program, the compiler's version and flags, and the device; entries of
another machine are never used. Several nodes may share one folder, and anybody may delete it.
(https://docs.jax.dev/en/latest/persistent_compilation_cache.html)
"""

from pathlib import Path

import jax


def keep_compiled(folder: Path) -> None:
    """Keep every compiled program in `folder`, which is made when needed."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
