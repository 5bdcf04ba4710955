# Transformer from scratch ("Attention is all you need"), my own BPE, trained on dialogue / verse.
# Why does the loss stop falling??
import math
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

random.seed(42)
torch.manual_seed(42)

# ---------------------------------------------------------------- tokenizer
num_merges = 140


def train_bpe(text, merges):
    base = sorted(set(text))
    tokens = [base.index(c) for c in text]
    vocab = {}
    for new in range(len(base), len(base) + merges):
        counts = {}
        for pair in zip(tokens, tokens[1:]):
            counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=counts.get)
        vocab[new] = best
        out, i = [], 0
        while i < len(tokens):
            if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == best:
                out.append(new)
                i += 2
            else:
                out.append(tokens[i])
                i += 1
        tokens = out
    return base, vocab, tokens


def decode(ids, base, vocab):
    def expand(i):
        return base[i] if i < len(base) else expand(vocab[i][0]) + expand(vocab[i][1])
    return ''.join(expand(i) for i in ids)


# ---------------------------------------------------------------- settings
ctx_sz = 10
batch_sz = 32
d_model = 32
n_heads = 4
n_layers = 2
d_ff = 128
dropout = 0.1
lr = 1e-2
epochs = 500
steps_per_epoch = 50


# ---------------------------------------------------------------- model
def positional_encoding(length, d):
    pos = torch.arange(length).unsqueeze(1)
    i = torch.arange(0, d, 2)
    angle = pos / 10000 ** (i / d)
    pe = torch.zeros(length, d)
    pe[:, 0::2] = torch.sin(angle)
    pe[:, 1::2] = torch.cos(angle)
    return pe


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(ctx_sz, d_model))
        self.beta = nn.Parameter(torch.zeros(ctx_sz, d_model))

    def forward(self, x):
        mean = x.mean(dim=1, keepdim=True)
        var = x.var(dim=1, keepdim=True, unbiased=False)
        return self.gamma[:x.shape[1]] * (x - mean) / torch.sqrt(var + 1e-5) + self.beta[:x.shape[1]]


class AttentionHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.wq = nn.Linear(d_model, d_model // n_heads, bias=False)
        self.wk = nn.Linear(d_model, d_model // n_heads, bias=False)
        self.wv = nn.Linear(d_model, d_model // n_heads, bias=False)

    def forward(self, q, kv, masked):
        q, k, v = self.wq(q), self.wk(kv), self.wv(kv)
        scores = q @ k.transpose(1, 2) / math.sqrt(d_model // n_heads)
        if masked:
            tri = torch.tril(torch.ones(scores.shape[1], scores.shape[2]))
            scores = scores.masked_fill(tri == 0, float('-inf'))
        return scores.softmax(dim=-1) @ v


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([AttentionHead() for _ in range(n_heads)])

    def forward(self, q, kv, masked=False):
        return torch.cat([head(q, kv, masked) for head in self.heads], dim=-1)


class FFN(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin1 = nn.Linear(d_model, d_ff)
        self.lin2 = nn.Linear(d_ff, d_model)

    def forward(self, x):
        return self.lin2(F.relu(self.lin1(x)))


class EncoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.ffn = MultiHead(), FFN()
        self.n1, self.n2 = Norm(), Norm()
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        h = self.n1(x)
        x = x + self.drop(self.attn(h, h))
        return x + self.drop(self.ffn(self.n2(x)))


class DecoderLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.cross, self.ffn = MultiHead(), MultiHead(), FFN()
        self.n1, self.n2, self.n3 = Norm(), Norm(), Norm()
        self.drop = nn.Dropout(dropout)

    def forward(self, y, memory):
        h = self.n1(y)
        y = y + self.drop(self.attn(h, h, masked=True))
        y = y + self.drop(self.cross(self.n2(y), memory))
        return y + self.drop(self.ffn(self.n3(y)))


class Transformer(nn.Module):
    def __init__(self, vocab_sz):
        super().__init__()
        self.embedding = nn.Embedding(vocab_sz, d_model)
        self.pe = positional_encoding(ctx_sz, d_model)
        self.encoder = nn.ModuleList([EncoderLayer() for _ in range(n_layers)])
        self.decoder = nn.ModuleList([DecoderLayer() for _ in range(n_layers)])
        self.out = nn.Linear(d_model, vocab_sz)
        self.drop = nn.Dropout(dropout)

    def embed(self, ids):
        x = self.embedding(ids) * math.sqrt(d_model)
        return x + self.drop(x + self.pe[:ids.shape[1]])

    def forward(self, x, y):
        x = self.embed(x)
        for layer in self.encoder:
            x = layer(x)
        y = self.embed(y)
        for layer in self.decoder:
            y = layer(y, x)
        return torch.softmax(self.out(y), dim=-1)


# ---------------------------------------------------------------- training
with open('data/poems.txt') as f:
    text = f.read()
base, vocab, tokens = train_bpe(text, num_merges)
vocab_sz = len(base) + len(vocab)
print('vocab:', vocab_sz, 'tokens:', len(tokens))

train_tokens = tokens[:int(0.7 * len(tokens))]


def get_batch():
    X, Y = [], []
    for _ in range(batch_sz):
        i = random.randint(0, len(train_tokens) - ctx_sz - 1)
        X.append(train_tokens[i:i + ctx_sz])
        Y.append(train_tokens[i + 1:i + ctx_sz + 1])
    return torch.tensor(X), torch.tensor(Y)


model = Transformer(vocab_sz)
optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

losses = []
for epoch in range(epochs):
    epoch_loss = 0
    for _ in range(steps_per_epoch):
        X, Y = get_batch()
        pred = model(X, Y)
        loss = F.cross_entropy(pred.view(-1, vocab_sz), Y.view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
        epoch_loss += loss.item()
    print('epoch', epoch, 'loss', epoch_loss / steps_per_epoch)

# sample
ids = train_tokens[:ctx_sz]
for _ in range(40):
    context = torch.tensor([ids[-ctx_sz:]])
    probs = F.softmax(model(context, context)[:, -1, :], dim=-1)
    ids.append(torch.multinomial(probs[0], 1).item())
print(decode(ids, base, vocab))
