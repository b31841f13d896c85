"""Decision trees over SAE features, walked as tensors: every token goes down at once.

A tree is plain numbers, so that a plan or a concept folder can hold it; scikit-learn fits it and is
not needed to read it. Leaves lead to themselves, so `depth` steps bring every token to its leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.errors import ConfigError


@final
@dataclass(frozen=True)
class TreeReadout:
    """A binary tree; a score is the share of positives at the leaf, 0 to 1.

    Node 0 is the root. A node goes left where its feature's latent is at most its cut.

    Attributes:
        features: features of the SAE, each once.
        column: for each node, which of `features` it asks; -1 at a leaf.
        cut: in latent units.
        left, right: the nodes below; of a leaf, itself.
        value: share of positives, the labels weighing alike.

    Raises:
        ConfigError: lists of different lengths, or numbers that point outside the tree.
    """

    features: tuple[int, ...]
    column: tuple[int, ...]
    cut: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that it is a tree: children come after their parent, so no walk goes round."""
        n = len(self.column)
        lists = (self.cut, self.left, self.right, self.value)
        if not n or not self.features or any(len(numbers) != n for numbers in lists):
            raise ConfigError(
                f"a tree of {len(self.features)} features with lists of {n} and "
                f"{[len(numbers) for numbers in lists]} nodes; expected one entry for each node."
            )
        for node, (column, *below) in enumerate(
            zip(self.column, self.left, self.right, strict=True)
        ):
            leaf = column == -1 and below == [node, node]
            inner = 0 <= column < len(self.features) and all(node < b < n for b in below)
            if not (leaf or inner):
                raise ConfigError(
                    f"node {node} of a tree asks column {column} and leads to {below}; expected a "
                    "leaf that leads to itself, or a column of its features and later nodes."
                )

    @property
    def depth(self) -> int:
        """Questions on the longest way to a leaf."""
        depths = [0] * len(self.column)
        for node, column in enumerate(self.column):
            if column >= 0:
                depths[self.left[node]] = depths[self.right[node]] = depths[node] + 1
        return max(depths)

    def __str__(self) -> str:
        """`tree over features 12, 88`."""
        return f"tree over features {', '.join(map(str, self.features))}"


@final
@dataclass(frozen=True, eq=False)
class SlicedTree:
    """A tree ready to walk over a slice's latents; `column` counts columns of that slice."""

    column: Int[Tensor, " nodes"]
    cut: Float[Tensor, " nodes"]
    left: Int[Tensor, " nodes"]
    right: Int[Tensor, " nodes"]
    value: Float[Tensor, " nodes"]
    depth: int

    def scores(self, latents: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
        """The share of positives at each token's leaf."""
        node = torch.zeros(latents.shape[:-1], dtype=torch.long, device=latents.device)
        for _ in range(self.depth):
            asked = latents.gather(-1, self.column[node][..., None])[..., 0]
            node = torch.where(asked <= self.cut[node], self.left[node], self.right[node])
        return self.value[node]

    def to(self, device: torch.device | str) -> SlicedTree:
        """The same tree on another device."""
        names = ("column", "cut", "left", "right", "value")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def tree_on(readout: TreeReadout, features: Sequence[int]) -> SlicedTree:
    """A tree over latents whose columns are `features`."""
    at = {feature: column for column, feature in enumerate(features)}
    asked = [at[readout.features[max(column, 0)]] for column in readout.column]
    return SlicedTree(
        torch.tensor(asked),
        torch.tensor(readout.cut),
        torch.tensor(readout.left),
        torch.tensor(readout.right),
        torch.tensor(readout.value),
        readout.depth,
    )


def fit_tree(
    rows: Float[Tensor, "rows columns"],
    positive: Bool[Tensor, " rows"],
    features: Sequence[int],
    depth: int = 4,
    seed: int = 0,
) -> TreeReadout:
    """A tree over some columns, the labels weighing alike; leaves hold at least 1 % of the rows."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        max_depth=depth,
        min_samples_leaf=max(1, len(rows) // 100),
        class_weight="balanced",
        random_state=seed,
    )
    tree = model.fit(rows[:, list(features)].numpy(), positive.numpy()).tree_
    leaf = tree.children_left < 0
    nodes = range(len(leaf))
    shares = tree.value[:, 0, 1] / tree.value[:, 0].sum(-1)
    used = sorted({int(c) for c in tree.feature[~leaf]}) or [0]
    return TreeReadout(
        features=tuple(int(features[c]) for c in used),
        column=tuple(-1 if leaf[n] else used.index(int(tree.feature[n])) for n in nodes),
        cut=tuple(0.0 if leaf[n] else float(tree.threshold[n]) for n in nodes),
        left=tuple(n if leaf[n] else int(tree.children_left[n]) for n in nodes),
        right=tuple(n if leaf[n] else int(tree.children_right[n]) for n in nodes),
        value=tuple(float(share) for share in shares),
    )
