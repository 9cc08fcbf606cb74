"""Loans to small businesses in the US: will one be charged off? 20 banks, each a client, 2,000 loans each.

Records of the US Small Business Administration; see datasets/ATTRIBUTION.md. Banks differ a lot: from 9 to
52 percent of their loans failed. The term is the one that a loan had in the end, so it partly tells what
became of the loan: results are to be reported with and without it.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from p2pnode.learning.data import Dataset, bundled_arrays, every_fifth, fetched_arrays, pooled, take
from p2pnode.learning.task import Task
from p2pnode.learning.tasks.mlp import auc, classifier

LEAST = 500
"""Loans of a bank that is a client, of those in the whole data set."""

AMOUNTS = {"emp": 1.0, "create": 1.0, "retained": 1.0, "gross": 1e4, "appv": 1e4, "sba": 1e4}
"""Counts of people and sums of money, each with a size that is small for it: what matters is their order."""

FLAGS = ("new", "franchise", "revline", "lowdoc", "same")
YEARS = tuple(range(1990, 2014))
SECTORS = (11, 21, 22, 23, *range(31, 34), 42, 44, 45, 48, 49, *range(51, 57), 61, 62, 71, 72, 81, 92)
"""The first two digits of an industry's NAICS code; 0 where it is not known."""

FEATURES = len(AMOUNTS) + len(FLAGS) + 1 + 2 + len(YEARS) + len(SECTORS)
TERM = 5
"""Features of the term."""

Clients = list[tuple[Dataset, Dataset]]


def loans(hidden: int, term: int, every: int) -> Task:
    """One hidden layer of `hidden` units.

    Args:
        hidden: units; with 0 the model is linear (logistic regression).
        term: 1 if it may see a loan's term, else 0.
        every: 1 for every bank with `LEAST` loans in the whole data set, from `scripts/fetch_data sba`.
    """

    def clients() -> Clients:
        return by_bank(fetched_arrays("sba") if every else bundled_arrays("loans"), bool(term))

    features = FEATURES + TERM * term
    widths = (features, hidden, 2) if hidden else (features, 2)
    task = classifier("loans", widths, lambda: pooled(clients()), lambda logits, y: {"auc": auc(logits, y)})
    return replace(task, clients=clients)


def by_bank(arrays: Mapping[str, np.ndarray], term: bool) -> Clients:
    """Each bank's loans, every fifth of either outcome to test with."""
    rows = Dataset(features(arrays, term), arrays["y"].astype(np.int32))
    order = np.argsort(arrays["bank"], kind="stable")
    banks = np.split(order, np.cumsum(np.bincount(arrays["bank"]))[:-1])
    return [every_fifth(take(rows, bank)) for bank in banks if len(bank) >= LEAST]


def features(arrays: Mapping[str, np.ndarray], term: bool) -> np.ndarray:
    """f32[rows, features], all of the order of 1, by constants: no statistics that a bank would tell of."""
    columns: list[np.ndarray] = [np.log1p(arrays[name] / small) / 2 for name, small in AMOUNTS.items()]
    columns += [arrays[name] for name in FLAGS]
    columns += [arrays["sba"] / arrays["appv"]]
    columns += [arrays["urban"] == kind for kind in (1, 2)]
    columns += [arrays["year"] == year for year in YEARS]
    columns += [arrays["naics"] == sector for sector in SECTORS]
    if term:
        months, whole = arrays["term"].astype(np.float64), arrays["term"] % 12 == 0
        columns += [months / 100, whole, whole * months / 100, months < 60, months > 180]
    return np.stack(columns, axis=1).astype(np.float32)
