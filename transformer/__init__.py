"""The 2017 Transformer, and a decoder-only language model made of the same parts.

>>> model = LanguageModel(ModelConfig(vocab_size=97, d_model=32, num_heads=2, num_layers=2))
>>> prompt = torch.tensor([[2, 3, 5]])
>>> tuple(model(prompt).shape)
(1, 3, 97)
>>> tuple(generate(model, prompt, max_new_tokens=7).shape)
(1, 10)

Models return logits; the loss is whoever trains' (label smoothing is `label_smoothing=` of
`torch.nn.functional.cross_entropy`). This package imports torch and jaxtyping only.
"""

from transformer.attention import Cache, CrossAttention, SelfAttention, attend
from transformer.config import ModelConfig
from transformer.generation import (
    Hypothesis,
    Sampling,
    beam_search,
    generate,
    keep_top_k,
    keep_top_p,
    length_divisor,
)
from transformer.initialization import initialize
from transformer.language_model import LanguageModel
from transformer.layers import DecoderLayer, EncoderLayer, FeedForward, InputEmbedding, sinusoidal_positions
from transformer.masks import EVERYTHING, Visibility, causal_mask, except_padding, up_to_itself
from transformer.seq2seq import Seq2Seq
from transformer.stacks import Decoder, Encoder

__all__ = [
    "EVERYTHING",
    "Cache",
    "CrossAttention",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "Hypothesis",
    "InputEmbedding",
    "LanguageModel",
    "ModelConfig",
    "Sampling",
    "SelfAttention",
    "Seq2Seq",
    "Visibility",
    "attend",
    "beam_search",
    "causal_mask",
    "except_padding",
    "generate",
    "initialize",
    "keep_top_k",
    "keep_top_p",
    "length_divisor",
    "sinusoidal_positions",
    "up_to_itself",
]
