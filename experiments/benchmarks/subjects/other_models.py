"""Healthy subjects that predict no next token: masked tokens, pictures, points and numbers."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.subject import Subject
from experiments.benchmarks.subjects.markov import (
    BATCH,
    BATCHES_PER_PASS,
    BRANCHES,
    CONTEXT,
    adamw,
    seeded,
    trained,
)

TOPICS, MASKED = 7, 0.2
MASK = TOPICS * BRANCHES
PICTURE, PATCH, CLASSES = 15, 5, 3


def bert(*, width: int = 32, layers: int = 2, dropout: float = 0.1, lr: float = 5e-3) -> Subject:
    """Hugging Face's BERT from a config, filling in masked tokens of texts on one topic each; dict batches.

    It has no token view: a token view promises that a prediction may know nothing behind its own target, and BERT
    reads both sides on purpose.
    """
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=MASK + 1,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width - 3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=CONTEXT,
        type_vocab_size=1,
        pad_token_id=None,
    )
    return trained(
        "bert",
        lambda: BertForMaskedLM(config),
        lr,
        loss=lambda model, batch: model(**batch).loss,
        batches=masked_texts,
        heldout=lambda seed: masked_texts(seed + 10_000),
    )


def masked_texts(seed: int) -> Iterator[dict[str, Tensor]]:
    """Texts whose tokens come from one of TOPICS sets of BRANCHES tokens each, some masked; labels -100 elsewhere.

    Whoever sees one other token of a text knows the set, so the lowest loss is ln(BRANCHES).
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(BATCHES_PER_PASS):
        topics = torch.randint(TOPICS, (BATCH, 1), generator=generator)
        tokens = BRANCHES * topics + torch.randint(BRANCHES, (BATCH, CONTEXT), generator=generator)
        chosen = torch.rand(tokens.shape, generator=generator) < MASKED
        chosen[:, 0] |= ~chosen.any(1)
        yield {
            "input_ids": tokens.masked_fill(chosen, MASK),
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens.masked_fill(~chosen, -100),
        }


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, torch's encoder layers, a head on the class token."""

    def __init__(self, width: int, layers: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (PICTURE // PATCH) ** 2 + 1, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width - 3, dropout, "gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, pictures: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch classes"]:
        patches = self.patches(pictures).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(patches), -1, -1), patches), dim=1) + self.positions
        return self.head(self.norm(self.encoder(x))[:, 0])


def pictures(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noisy pictures of stripes: across, down or slanted, at a random phase."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(PICTURE), torch.arange(PICTURE), indexing="ij")
    ramps = torch.stack((row, column, row + column)).float()
    for _ in range(BATCHES_PER_PASS):
        labels = torch.randint(CLASSES, (29,), generator=generator)
        phase = 6.3 * torch.rand(29, 1, 1, generator=generator)
        noise = 0.3 * torch.randn(29, PICTURE, PICTURE, generator=generator)
        yield (torch.sin(1.3 * ramps[labels] + phase) + noise)[:, None], labels


def vision(
    *, width: int = 16, layers: int = 2, dropout: float = 0.1, norm_first: bool = True, lr: float = 3e-3
) -> Subject:
    """A vision transformer on synthetic pictures."""
    build = seeded(lambda: VisionTransformer(width, layers, dropout, norm_first))
    return classifier("vision", build, pictures, lr)


def classifier(
    name: str,
    build: Callable[[int], nn.Module],
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    lr: float,
) -> Subject:
    """A subject that puts each input into a class."""
    return Subject(
        name=name,
        model=build(0),
        build=build,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=batches,
        heldout=lambda seed: batches(seed + 10_000),
        optimizer=adamw(lr),
    )


def points(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Points in space; the class counts the positive ones of the first two coordinates."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(BATCHES_PER_PASS):
        point = torch.randn(37, 5, generator=generator)
        yield point, (point[:, 0] > 0).long() + (point[:, 1] > 0).long()


def mlp(*, width: int = 31, layers: int = 1, dropout: float = 0.0, lr: float = 1e-2) -> Subject:
    """A classifier of points: no token view, with a batch norm."""

    def make() -> nn.Module:
        hidden: list[nn.Module] = []
        for index in range(layers):
            hidden += [nn.Linear(width if index else 5, width), nn.BatchNorm1d(width), nn.ReLU()]
            hidden += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*hidden, nn.Linear(width, 3))

    return classifier("mlp", seeded(make), points, lr)


def regression(*, width: int = 31, layers: int = 2, dropout: float = 0.0, lr: float = 1e-2) -> Subject:
    """A regression of a smooth function of five numbers, by mean squared error."""

    def make() -> nn.Module:
        hidden: list[nn.Module] = []
        for index in range(layers):
            hidden += [nn.Linear(width if index else 5, width), nn.Tanh()]
            hidden += [nn.Dropout(dropout)] if dropout else []
        return nn.Sequential(*hidden, nn.Linear(width, 1))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(BATCHES_PER_PASS):
            x = torch.randn(41, 5, generator=generator)
            yield x, (torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2])[:, None]

    build = seeded(make)
    return Subject(
        name="regression",
        model=build(0),
        build=build,
        loss=lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
        batches=batches,
        heldout=lambda seed: batches(seed + 10_000),
        optimizer=adamw(lr),
    )
