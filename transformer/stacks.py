"""N equal layers on top of each other, and the final norm that a stack needs if its norms come before."""

from jaxtyping import Float
from torch import Tensor, nn

from transformer.attention import Cache
from transformer.config import ModelConfig
from transformer.layers import DecoderLayer, EncoderLayer
from transformer.masks import Visibility


class Encoder(nn.Module):
    """`num_layers` encoder layers; with a causal `visible`, the stack of a language model.

    Source: Vaswani et al. 2017, section 3.1. A stack whose norms come before its sub-layers ends in one more
    norm, since nothing else bounds the sum that runs through it (Xiong et al. 2020, Table 1).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.final_norm = _final_norm(config)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        visible: Visibility,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        """The sequence after all layers; with a cache, x holds only its new positions."""
        for i, layer in enumerate(self.layers):
            x = layer(x, visible, None if cache is None else cache.layers[i])
        return self.final_norm(x)


class Decoder(nn.Module):
    """`num_layers` decoder layers. Source: as `Encoder`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.final_norm = _final_norm(config)

    def forward(
        self,
        x: Float[Tensor, "batch target_len d_model"],
        memory: Float[Tensor, "batch source_len d_model"],
        visible: Visibility,
        visible_memory: Visibility,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch target_len d_model"]:
        """The target after all layers; with a cache, x holds only its new positions."""
        for i, layer in enumerate(self.layers):
            x = layer(x, memory, visible, visible_memory, None if cache is None else cache.layers[i])
        return self.final_norm(x)


def _final_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "before":
        return nn.LayerNorm(config.d_model, eps=config.norm_eps)
    return nn.Identity()
