"""The policy: a denoiser with its special tokens, and log-probabilities of completions under masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.spg import masking, sampler
from methods.spg.llada import LLaDA
from methods.spg.masking import Masks
from methods.spg.worlds import World


class Policy(nn.Module):
    """π_θ. Its state is what is trained: all weights, or the adapters alone where there are any."""

    def __init__(self, model: LLaDA, world: World) -> None:
        super().__init__()
        self.model, self.world = model, world

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def logits(self, prompt: Tensor, keep: Tensor | None, z: Tensor) -> Tensor:
        """prompt [B, P], completion with masks z [B, n] -> [B, n, V]."""
        if keep is not None:
            keep = torch.cat([keep, torch.ones_like(z, dtype=torch.bool)], dim=1)
        return self.model(torch.cat([prompt, z], dim=1), keep, last=z.shape[1])

    def log_softmax(self, logits: Tensor) -> Tensor:
        """In fp32, over the tokens that may be written: the sampler never draws the others."""
        never = torch.tensor(self.world.never, device=logits.device)
        return logits.float().index_fill(-1, never, -torch.inf).log_softmax(dim=-1)

    def log_p(self, prompt: Tensor, keep: Tensor | None, x: Tensor, masks: Masks) -> Tensor:
        """[B, m, n] log π_θ(x_i | z_τ, c) of every token of x [B, n], all copies in one pass."""
        m, mask_token = masks.hidden.shape[1], self.world.mask_token
        c = masking.apply(prompt, masks.prompt, mask_token).flatten(0, 1)
        z = masking.apply(x, masks.hidden, mask_token).flatten(0, 1)
        kept = None if keep is None else keep.repeat_interleave(m, dim=0)
        log_p = self.log_softmax(self.logits(c, kept, z)).unflatten(0, (-1, m))
        return log_p.gather(3, x[:, None, :, None].expand(-1, m, -1, 1))[..., 0]

    def sample(
        self, prompt: Tensor, keep: Tensor | None, *, block: int, steps: int, temperature: float, **more: Any
    ) -> sampler.Rollout:
        """Completions [B, n] of prompts [B, P]; see `sampler.sample`."""
        world = self.world
        return sampler.sample(
            lambda z: self.logits(prompt, keep, z),
            len(prompt),
            more.pop("n", world.n),
            block=block,
            steps=steps,
            temperature=temperature,
            mask_token=world.mask_token,
            forbidden=world.never,
            device=prompt.device,
            **more,
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().state_dict(*args, **kwargs)
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: value for name, value in state.items() if name in trained}

    def load_state_dict(self, state: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().load_state_dict(state, strict=False)


def add_lora(model: nn.Module, rank: int, alpha: int, dropout: float, targets: list[str]) -> nn.Module:
    """Low-rank adapters on the linear layers whose names end in one of `targets`; everything else is frozen. Adapters
    are float32 whatever the weights are."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, bias="none")
    model = inject_adapter_in_model(config, model)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()  # small steps would be lost in bfloat16
    return model


def merge_lora(model: nn.Module) -> None:
    """Adds adapters into the weights and takes them out, in place."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer.get_base_layer())
