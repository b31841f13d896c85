"""Some features of a true TopK SAE, read without sorting all of them, are those of its encoder."""

from __future__ import annotations

import pytest
import torch

from saesteer.models import Site
from saesteer.saes import SAE
from saesteer.steer.topk_reader import TopKReader


def _sae(k: int) -> SAE:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SAE(
        *(draw(16, 48), draw(48), draw(48, 16), draw(16), torch.zeros(48)),
        site=Site(1, "resid_post"),
        activation="topk",
        k=k,
    )


@pytest.mark.parametrize("k", [1, 5, 40, 48])
@pytest.mark.parametrize("features", [(0,), (2, 0, 30), tuple(range(48))], ids=len)
def test_read_features_equal_the_encoders(k: int, features: tuple[int, ...]) -> None:
    sae = _sae(k)
    resid = torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(1))
    whole = sae.encode(resid)
    by_use = (whole > 0).float().mean((0, 1)).argsort(descending=True).tolist()
    chosen = tuple(by_use[i] for i in features)
    latents = whole[..., list(chosen)]
    torch.testing.assert_close(TopKReader(sae, chosen).read(resid), latents)
    assert (latents > 0).any()


def test_a_change_moves_along_the_decoder_rows() -> None:
    sae = _sae(5)
    reader = TopKReader(sae, (9, 3)).to("cpu", torch.float32)
    assert torch.equal(reader.delta(torch.tensor([[2.0, 0.0]]))[0], 2.0 * sae.w_dec[9])


def test_ranking_in_bfloat16_keeps_values_in_fp32() -> None:
    sae = _sae(5)
    resid = torch.randn(4, 200, 16, generator=torch.Generator().manual_seed(1))
    exact = TopKReader(sae, tuple(range(48))).read(resid)
    short = TopKReader(sae, tuple(range(48)), rank_in="bfloat16").read(resid)
    both = (exact > 0) & (short > 0)
    torch.testing.assert_close(short[both], exact[both])
    assert ((exact > 0) == (short > 0)).float().mean() > 0.99


@pytest.mark.parametrize("n_rows", [1, 2, 9])
def test_how_many_rows_are_read_at_once_changes_nothing(n_rows: int) -> None:
    sae = _sae(5)
    resid = torch.randn(9, 16, generator=torch.Generator().manual_seed(1))
    reader = TopKReader(sae, (0, 7, 30))
    parts = torch.cat([reader.read(part) for part in resid.split(n_rows)])
    torch.testing.assert_close(parts, sae.encode(resid)[:, [0, 7, 30]])
    assert (parts > 0).any()
