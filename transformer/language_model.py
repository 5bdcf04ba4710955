"""A decoder-only language model made of the paper's parts."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer.attention import Cache
from transformer.config import ModelConfig
from transformer.initialization import initialize
from transformer.layers import InputEmbedding
from transformer.masks import up_to_itself
from transformer.stacks import Encoder


class LanguageModel(nn.Module):
    """Predicts the next token at every position from the tokens up to it.

    Without an encoder there is no memory to attend to; what is left of a decoder layer is an encoder layer
    that does not look ahead. New models are initialised by `initialize`.

    Args:
        config: sizes and choices; see `ModelConfig`.

    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"; parts as in
    Vaswani et al. 2017.

    >>> model = LanguageModel(ModelConfig(vocab_size=11, d_model=6, num_heads=3, num_layers=1))
    >>> tuple(model(torch.tensor([[2, 3, 5, 7]])).shape)
    (1, 4, 11)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = InputEmbedding(config)
        self.stack = Encoder(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.embedding.tokens.weight
        initialize(self)

    def forward(
        self, tokens: Int[Tensor, "batch time"], cache: Cache | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the token that follows each position.

        Args:
            tokens: the text; with a cache, only what was not read before.
            cache: from `new_cache`; remembers these tokens for the next call.

        Raises:
            ValueError: if the text is longer than `max_len`, or a token is outside the vocabulary.
        """
        return self.head(self.states(tokens, cache))

    def states(
        self, tokens: Int[Tensor, "batch time"], cache: Cache | None = None
    ) -> Float[Tensor, "batch time d_model"]:
        """What `head` turns into logits; for losses that apply the head in pieces. Args as `forward`."""
        start = 0 if cache is None else len(cache)
        query_len = tokens.shape[1]
        visible = up_to_itself(query_len, start + query_len, device=tokens.device)
        return self.stack(self.embedding(tokens, start), visible, cache)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of texts."""
        return Cache(self.config.num_layers)
