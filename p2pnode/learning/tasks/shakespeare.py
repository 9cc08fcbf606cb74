"""Shakespeare by character: what comes next? Each of some 300 speakers has a style and a text of their own.

A million characters of the plays ("tiny Shakespeare"; see datasets/ATTRIBUTION.md) are cut up by who speaks,
as federated learning does since McMahan et al. 2017 (arXiv:1602.05629), without the speakers' names. A row is
a window of one speaker's text: 65 characters, of which the model reads the first 64 and foretells the last
64. Its label is the speaker, whom the model does not see: it is what rows are dealt out to nodes by.
"""

import lzma
from collections import defaultdict
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np

from p2pnode.learning.data import Dataset, pooled
from p2pnode.learning.task import Params, Task
from p2pnode.learning.tasks import transformer

CONTEXT = 64
CHARACTERS = 65
"""Different ones in the text."""

TESTED = 10
"""One window in so many, the last ones of each speaker, is for testing."""

Clients = list[tuple[Dataset, Dataset]]


def shakespeare(heads: int, layers: int, groups: int) -> Task:
    """A transformer with `layers` blocks of `heads` heads; its natural clients are `groups` of speakers."""

    def init(key: jax.Array) -> Params:
        return transformer.init(CHARACTERS, CONTEXT, heads, layers, key)

    def metrics(params: Params, batch: Dataset) -> dict[str, jax.Array]:
        text = batch.x.astype(jnp.int32)
        logits, wanted = transformer.logits_of(params, text[:, :-1]), text[:, 1:]
        chances = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, :, None], axis=2)
        return {"accuracy": jnp.mean(jnp.argmax(logits, axis=2) == wanted), "loss": -jnp.mean(chances)}

    return Task(
        "shakespeare",
        init,
        lambda params, batch, key: metrics(params, batch)["loss"],
        metrics,
        load,
        clients=lambda: dealt(by_speaker(), groups),
    )


def load() -> tuple[Dataset, Dataset]:
    """All speakers' windows: 14,000 to train on and 1,500 to test with."""
    return pooled(by_speaker())


def by_speaker() -> Clients:
    """Each speaker's windows; whoever says less than one window is left out."""
    packed = resources.files("p2pnode.learning") / "datasets" / "shakespeare.txt.xz"
    text = lzma.decompress(packed.read_bytes())
    code = np.zeros(256, np.float32)
    code[np.unique(np.frombuffer(text, np.uint8))] = np.arange(CHARACTERS)
    said: dict[bytes, list[bytes]] = defaultdict(list)
    for speech in text.strip().split(b"\n\n"):
        speaker, _, words = speech.partition(b":\n")
        said[speaker] += [words] if words else []
    texts = (b"\n\n".join(speeches) for speeches in said.values())
    windows = [_windows(code[np.frombuffer(text, np.uint8)]) for text in texts]
    return [_split(x, label) for label, x in enumerate(x for x in windows if len(x))]


def _windows(text: np.ndarray) -> np.ndarray:
    starts = CONTEXT * np.arange((len(text) - 1) // CONTEXT)
    return np.take(text, starts[:, None] + np.arange(CONTEXT + 1))


def _split(x: np.ndarray, label: int) -> tuple[Dataset, Dataset]:
    data, kept = Dataset(x, np.full(len(x), label, np.int32)), len(x) - len(x) // TESTED
    return Dataset(data.x[:kept], data.y[:kept]), Dataset(data.x[kept:], data.y[kept:])


def dealt(speakers: Clients, groups: int) -> Clients:
    """The speakers in `groups` groups of much the same size: who says most first, each to the smallest."""
    parts: list[Clients] = [[] for _ in range(groups)]
    for speaker in sorted(speakers, key=lambda rows: -len(rows[0].y)):
        min(parts, key=lambda part: sum(len(train.y) for train, _ in part)).append(speaker)
    return [pooled(part) for part in parts]
