"""The encoder-decoder of the 2017 paper."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from transformer.attention import Cache
from transformer.config import ModelConfig
from transformer.initialization import initialize
from transformer.layers import InputEmbedding
from transformer.masks import except_padding, up_to_itself
from transformer.stacks import Decoder, Encoder


class Seq2Seq(nn.Module):
    """Predicts the next token of a target at every position from the source and the target up to it.

    New models are initialised by `initialize`. With `tie_weights` the two embeddings and the pre-softmax
    projection are one matrix; without, they are three.

    Args:
        config: sizes and choices; see `ModelConfig`.

    Source: Vaswani et al. 2017, section 3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.source_embedding = InputEmbedding(config)
        self.target_embedding = InputEmbedding(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_weights:
            self.target_embedding.tokens.weight = self.source_embedding.tokens.weight
            self.head.weight = self.source_embedding.tokens.weight
        initialize(self)

    def forward(
        self,
        source: Int[Tensor, "batch source_len"],
        target: Int[Tensor, "batch target_len"],
        source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
        target_is_padding: Bool[Tensor, "batch target_len"] | None = None,
    ) -> Float[Tensor, "batch target_len vocab"]:
        """Logits of the target token that follows each position of `target`.

        Args:
            source: what is read whole.
            target: what the decoder has written, beginning with a start token: the labels, one step late.
            source_is_padding: true where the source is padding, which is then never seen; None: nowhere.
            target_is_padding: the same for the target. Padding behind a text needs none of it: nothing looks
                ahead. The logits at padding mean nothing; leave them out of the loss.

        Raises:
            ValueError: if either is longer than `max_len`, or a token is outside the vocabulary.
        """
        return self.head(self.states(source, target, source_is_padding, target_is_padding))

    def states(
        self,
        source: Int[Tensor, "batch source_len"],
        target: Int[Tensor, "batch target_len"],
        source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
        target_is_padding: Bool[Tensor, "batch target_len"] | None = None,
    ) -> Float[Tensor, "batch target_len d_model"]:
        """What `head` turns into logits; for losses that apply the head in pieces. Args as `forward`."""
        memory = self.encode(source, source_is_padding)
        return self.decode(target, memory, source_is_padding, target_is_padding)

    def encode(
        self,
        source: Int[Tensor, "batch source_len"],
        source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
    ) -> Float[Tensor, "batch source_len d_model"]:
        """The memory that `decode` looks at. Args as `forward`."""
        return self.encoder(self.source_embedding(source), except_padding(source_is_padding))

    def decode(
        self,
        target: Int[Tensor, "batch target_len"],
        memory: Float[Tensor, "batch source_len d_model"],
        source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
        target_is_padding: Bool[Tensor, "batch key_len"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch target_len d_model"]:
        """States of the decoder; `head` turns them into logits.

        Args:
            target: what was written; with a cache, only what was not read before.
            memory: from `encode`, for the same batch.
            source_is_padding: as `forward`.
            target_is_padding: true where the target is padding, the tokens in the cache included.
            cache: from `new_cache`; remembers these tokens and the memory for the next call.
        """
        start = 0 if cache is None else len(cache)
        query_len = target.shape[1]
        visible = up_to_itself(query_len, start + query_len, target_is_padding, target.device)
        x = self.target_embedding(target, start)
        return self.decoder(x, memory, visible, except_padding(source_is_padding), cache)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of targets."""
        return Cache(self.config.num_layers)
