"""What a node keeps on disk: files that are always whole, in a directory that one process owns."""

from p2pnode.storage.atomic import StorageError, write_atomic
from p2pnode.storage.checkpoint import Checkpoint, load_checkpoint
from p2pnode.storage.directory import DataDirectory, default_data_dir

__all__ = [
    "Checkpoint",
    "DataDirectory",
    "StorageError",
    "default_data_dir",
    "load_checkpoint",
    "write_atomic",
]
