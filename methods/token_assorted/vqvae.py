"""A VQ-VAE over chunks of trace tokens: one latent code a chunk (Token Assorted, arXiv 2502.03275, section 3.1).

f_enc maps a chunk of L tokens to a vector, the quantiser picks the nearest row of the codebook, and f_dec maps that row
together with g(P), an embedding of the prompt, back to L tokens. Loss: reconstruction NLL + β |x̄ − sg[e]|², straight-through;
the codebook follows by exponential moving averages, and rows that no chunk is near are drawn anew from the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Chunks(NamedTuple):
    """N chunks with their prompts: tokens [N, L]; prompt [n, P] with mask; item [N], each chunk's row of prompt."""

    tokens: Tensor
    prompt: Tensor
    prompt_mask: Tensor
    item: Tensor


class ChunkVQVAE(nn.Module):
    """tokens: size of the vocabulary; chunk: L; codes: rows of the codebook; width: d; commitment: β."""

    def __init__(
        self, tokens: int, chunk: int, codes: int, *, width: int = 48, hidden: int = 192, commitment: float = 0.25
    ) -> None:
        from vector_quantize_pytorch import VectorQuantize

        super().__init__()
        self.shape = {"tokens": tokens, "chunk": chunk, "codes": codes, "width": width, "hidden": hidden}
        self.chunk = chunk
        self.embedding = nn.Embedding(tokens, width)
        self.encoder = nn.Sequential(nn.Linear(chunk * width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.quantiser = VectorQuantize(
            width, codes, decay=0.9, commitment_weight=commitment, threshold_ema_dead_code=1, rotation_trick=False
        )
        self.prompt = nn.Linear(width, width)
        self.decoder = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, chunk * width))

    def encode(self, tokens: Tensor) -> Tensor:
        """[..., L] tokens -> [...] codes."""
        flat = self.encoder(self.embedding(tokens).flatten(-2)).reshape(1, -1, self.embedding.embedding_dim)
        training = self.quantiser.training
        self.quantiser.eval()  # else asking for codes moves them
        with torch.no_grad():
            codes = self.quantiser(flat)[1]
        self.quantiser.train(training)
        return codes.reshape(tokens.shape[:-1])

    def decode(self, vectors: Tensor, prompt: Tensor) -> Tensor:
        """Vectors [N, d] and prompts g(P) [N, d] -> logits [N, L, tokens]."""
        out = self.decoder(torch.cat([vectors, prompt], dim=1)).view(len(vectors), self.chunk, -1)
        return out @ self.embedding.weight.T

    def decode_codes(self, codes: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
        """[N] codes with their prompts [N, P] -> [N, L] the likeliest tokens."""
        vectors = self.quantiser.get_codes_from_indices(codes)
        return self.decode(vectors, self.prompts(prompt, mask)).argmax(dim=2)

    def prompts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """g(P) [n, d]: a linear map of the mean of the prompt's embeddings."""
        kept = mask[..., None].to(self.embedding.weight.dtype)
        return self.prompt((self.embedding(ids) * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1))

    def forward(self, chunks: Chunks) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, codes [N], logits [N, L, tokens])."""
        encoded = self.encoder(self.embedding(chunks.tokens).flatten(1))
        vectors, codes, commitment = self.quantiser(encoded[None])
        prompt = self.prompts(chunks.prompt, chunks.prompt_mask)[chunks.item]
        logits = self.decode(vectors[0], prompt)
        reconstruction = F.cross_entropy(logits.flatten(0, 1), chunks.tokens.flatten())
        return reconstruction + commitment.sum(), codes[0], logits


def usage(codes: Tensor, size: int) -> Tensor:
    """[size] how often each code occurs."""
    return torch.bincount(codes.flatten(), minlength=size)


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes' shares: as many codes, used equally often, would be as hard to guess."""
    shares = counts.double() / counts.sum().clamp_min(1)
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
