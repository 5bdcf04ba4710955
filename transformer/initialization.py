"""How the parameters of a new model are drawn.

- Matrices: Xavier uniform, bound sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010). Projections that are
  stored side by side are drawn one by one: drawing [W_Q W_K W_V] as one matrix, as torch's
  `MultiheadAttention` does, makes each of them sqrt(2) smaller for no other reason than how it is stored.
- Embeddings and learned positions: normal with standard deviation d_model^-0.5, as in the paper's own code
  (tensor2tensor). Times sqrt(d_model) an embedding has unit size, and as pre-softmax matrix behind a norm it
  gives logits of unit size. Logits of standard deviation s start at a loss of about ln V + s^2 / 2: half a
  nat above ln V for a tied head, less for an untied one.
- Biases 0, norms the identity.

One combination starts higher: a tied head over a wide stack with norms before and scaled embeddings. The stream
still holds the embedding that went in, so the head predicts the token just read (6 layers, d_model 512,
V = 8000: a logit of 9.3 for it, a first loss of ln V + 1.2). GPT-2, with such norms, has `scale_embedding` off.
"""

from torch import nn

from transformer.attention import CrossAttention, SelfAttention
from transformer.layers import InputEmbedding


def initialize(model: nn.Module) -> None:
    """Draw every parameter of a model anew, in place, from torch's global generator.

    Embeddings come last: a matrix that is embedding and pre-softmax projection in one is an embedding.

    Source: see the top of this file.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _xavier(module, parts=1)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, SelfAttention):
            _xavier(module.query_key_value, parts=3)
        elif isinstance(module, CrossAttention):
            _xavier(module.key_value, parts=2)
        elif isinstance(module, InputEmbedding):
            _embedding(module)


def _xavier(linear: nn.Linear, parts: int) -> None:
    for matrix in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(matrix)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _embedding(embedding: InputEmbedding) -> None:
    std = embedding.tokens.embedding_dim**-0.5
    nn.init.normal_(embedding.tokens.weight, std=std)
    if isinstance(embedding.positions, nn.Parameter):
        nn.init.normal_(embedding.positions, std=std)
