# The Annotated Transformer, shortened: encoder and decoder as two modules, label smoothing
# written by hand. Task: read a number, write it in words.
import itertools
import math
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

random.seed(5)
torch.manual_seed(5)

PAD, BOS, EOS = 0, 1, 2

ONES = ['', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve',
        'thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen']
TENS = ['', '', 'twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety']


def spell(n):
    if n >= 1000:
        return spell(n // 1000) + ['thousand'] + (spell(n % 1000) if n % 1000 else [])
    if n >= 100:
        return [ONES[n // 100], 'hundred'] + (spell(n % 100) if n % 100 else [])
    if n >= 20:
        return [TENS[n // 10]] + ([ONES[n % 10]] if n % 10 else [])
    return [ONES[n]]


words = ['<pad>', '<bos>', '<eos>'] + [w for w in ONES + TENS if w] + ['hundred', 'thousand']
word_id = {w: i for i, w in enumerate(words)}


def make_batch(size):
    sources, targets = [], []
    for _ in range(size):
        n = random.randint(1, 10 ** random.randint(1, 5) - 1)
        sources.append([int(d) + 3 for d in str(n)])
        targets.append([BOS] + [word_id[w] for w in spell(n)] + [EOS])
    pad = lambda rows: torch.tensor([r + [PAD] * (max(map(len, rows)) - len(r)) for r in rows])
    return pad(sources), pad(targets)


def attention(query, key, value, mask):
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    return p_attn @ value


class MultiHeadedAttention(nn.Module):
    def __init__(self, h, d_model):
        super().__init__()
        self.h, self.d_k = h, d_model // h
        self.linears = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(4)])

    def forward(self, query, key, value, mask):
        n = query.size(0)
        query, key, value = [
            lin(x).view(n, -1, self.h, self.d_k).transpose(1, 2)
            for lin, x in zip(self.linears, (query, key, value))
        ]
        x = attention(query, key, value, mask.unsqueeze(1))
        x = x.transpose(1, 2).contiguous().view(n, -1, self.h * self.d_k)
        return self.linears[-1](x)


class Embeddings(nn.Module):
    def __init__(self, vocab, d_model, max_len=32):
        super().__init__()
        self.lut = nn.Embedding(vocab, d_model, padding_idx=PAD)
        nn.init.normal_(self.lut.weight, std=d_model ** -0.5)
        self.d_model = d_model
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(0, max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * -(math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        self.register_buffer('pe', pe.unsqueeze(0))

    def forward(self, x):
        return self.lut(x) * math.sqrt(self.d_model) + self.pe[:, :x.size(1)]


def feed_forward(d_model, d_ff):
    return nn.Sequential(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))


class EncoderLayer(nn.Module):
    def __init__(self, d_model, h):
        super().__init__()
        self.self_attn = MultiHeadedAttention(h, d_model)
        self.ff = feed_forward(d_model, 4 * d_model)
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(2)])

    def forward(self, x, mask):
        y = self.norms[0](x)
        x = x + self.self_attn(y, y, y, mask)
        return x + self.ff(self.norms[1](x))


class DecoderLayer(nn.Module):
    def __init__(self, d_model, h):
        super().__init__()
        self.self_attn = MultiHeadedAttention(h, d_model)
        self.src_attn = MultiHeadedAttention(h, d_model)
        self.ff = feed_forward(d_model, 4 * d_model)
        self.norms = nn.ModuleList([nn.LayerNorm(d_model) for _ in range(3)])

    def forward(self, x, memory, src_mask, tgt_mask):
        y = self.norms[0](x)
        x = x + self.self_attn(y, y, y, tgt_mask)
        y = self.norms[1](x)
        x = x + self.src_attn(y, memory, memory, src_mask)
        return x + self.ff(self.norms[2](x))


class Encoder(nn.Module):
    def __init__(self, vocab, d_model=64, h=4, n=2):
        super().__init__()
        self.embed = Embeddings(vocab, d_model)
        self.layers = nn.ModuleList([EncoderLayer(d_model, h) for _ in range(n)])
        self.norm = nn.LayerNorm(d_model)

    def forward(self, src, src_mask):
        x = self.embed(src)
        for layer in self.layers:
            x = layer(x, src_mask)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, vocab, d_model=64, h=4, n=2):
        super().__init__()
        self.embed = Embeddings(vocab, d_model)
        self.layers = nn.ModuleList([DecoderLayer(d_model, h) for _ in range(n)])
        self.norm = nn.LayerNorm(d_model)
        self.proj = nn.Linear(d_model, vocab)

    def forward(self, tgt, memory, src_mask, tgt_mask):
        x = self.embed(tgt)
        for layer in self.layers:
            x = layer(x, memory, src_mask, tgt_mask)
        return self.proj(self.norm(x))


class LabelSmoothingLoss(nn.Module):
    "Label smoothing, averaged over the words that are not padding."

    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, x, target):
        log_probs = F.log_softmax(x, dim=-1)
        nll = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
        smooth = -log_probs.mean(dim=-1)
        loss = (1 - self.smoothing) * nll + self.smoothing * smooth
        keep = (target != PAD).float()
        return (loss * keep).sum() / keep.sum()


def subsequent_mask(size):
    "Mask out subsequent positions."
    return torch.tril(torch.ones(1, size, size, dtype=torch.bool))


encoder = Encoder(vocab=13)
decoder = Decoder(vocab=len(words))
criterion = LabelSmoothingLoss(0.1)
optimizer = torch.optim.Adam(itertools.chain(encoder.parameters(), decoder.parameters()),
                             lr=1e-3, betas=(0.9, 0.98), eps=1e-9)

for step in range(1, 20001):
    src, tgt = make_batch(16)
    tgt_in, tgt_y = tgt[:, :-1], tgt[:, 1:]
    src_mask = (src != PAD).unsqueeze(-2)
    tgt_mask = (tgt_in != PAD).unsqueeze(-2) & subsequent_mask(tgt_in.size(-1))

    memory = encoder(src, src_mask)
    out = decoder(tgt_in, memory, src_mask, tgt_mask)
    loss = criterion(out, tgt_y)

    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    if step % 50 == 0:
        acc = (out.argmax(-1) == tgt_y)[tgt_y != PAD].float().mean()
        print("Step: %6d | Loss: %6.3f | Accuracy: %5.3f" % (step, loss.item(), acc.item()))
