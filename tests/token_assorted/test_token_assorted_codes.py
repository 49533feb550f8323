"""The VQ-VAE: what its loss is, what its codes mean, that asking for codes moves nothing, that dead codes come back."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from methods.token_assorted import vqvae
from methods.token_assorted.vqvae import Chunks, ChunkVQVAE


def some_chunks(n: int = 64, size: int = 3, tokens: int = 9) -> Chunks:
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(tokens, (8, 5), generator=generator)
    mask = torch.arange(5) >= torch.randint(4, (8, 1), generator=generator)
    item = torch.randint(8, (n,), generator=generator)
    return Chunks(torch.randint(tokens, (n, size), generator=generator), prompt, mask, item)


def small_model(codes: int = 16) -> ChunkVQVAE:
    torch.manual_seed(0)
    return ChunkVQVAE(9, 3, codes, width=8, hidden=16)


def test_the_loss_is_reconstruction_and_commitment_to_the_nearest_row():
    model, chunks = small_model().eval(), some_chunks()
    book = model.quantiser.codebook
    encoded = model.encoder(model.embedding(chunks.tokens).flatten(1))
    nearest = torch.cdist(encoded, book).argmin(dim=1)
    assert torch.equal(model.encode(chunks.tokens), nearest)
    _, codes, logits = model(chunks)
    assert torch.equal(codes, nearest)
    prompts = model.prompts(chunks.prompt, chunks.prompt_mask)[chunks.item]
    again = model.decode(book[nearest], prompts)
    assert torch.allclose(logits, again, atol=1e-5)
    model.train()
    model.quantiser._codebook.ema_update = False
    loss, codes, logits = model(chunks)
    wanted = F.cross_entropy(logits.flatten(0, 1), chunks.tokens.flatten())
    wanted = wanted + 0.25 * (encoded - book[codes]).square().mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_gradients_pass_straight_through_and_the_prompt_takes_part():
    model, chunks = small_model(), some_chunks()
    model(chunks)[0].backward()
    assert float(model.encoder[0].weight.grad.abs().max()) > 0
    assert float(model.prompt.weight.grad.abs().max()) > 0
    model.eval()
    other = chunks._replace(prompt=(chunks.prompt + 1) % 9)
    assert not torch.equal(model(chunks)[2], model(other)[2])
    hidden = chunks._replace(prompt=torch.where(chunks.prompt_mask, chunks.prompt, 0))
    assert torch.equal(model(chunks)[2], model(hidden)[2])  # padding does not


def test_asking_for_codes_moves_nothing():
    model, chunks = small_model().train(), some_chunks()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = model.encode(chunks.tokens.view(8, 8, 3))
    assert codes.shape == (8, 8) and model.quantiser.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_dead_codes_come_back():
    """All rows but one far away: after some steps many are in use."""
    model, chunks = small_model(), some_chunks()
    with torch.no_grad():
        model.quantiser._codebook.embed[:, 1:] += 100
        model.quantiser._codebook.embed_avg.copy_(model.quantiser._codebook.embed)
    assert int((vqvae.usage(model.encode(chunks.tokens), 16) > 0).sum()) == 1
    model.train()
    for _ in range(40):
        model(chunks)
    assert int((vqvae.usage(model.encode(chunks.tokens), 16) > 0).sum()) > 8


def test_usage_and_perplexity():
    counts = vqvae.usage(torch.tensor([0, 0, 1, 3]), 5)
    assert counts.tolist() == [2, 1, 0, 1, 0]
    assert vqvae.perplexity(counts) == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert vqvae.perplexity(torch.full((64,), 3)) == pytest.approx(64)
    assert vqvae.perplexity(torch.tensor([7, 0, 0])) == 1
