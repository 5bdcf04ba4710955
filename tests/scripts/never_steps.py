# evaluation of a "trained" model... (TODO: load the weights once training works)
import math
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
text = open('data/poems.txt').read()
chars = sorted(set(text))
ids = torch.tensor([chars.index(c) for c in text])


class LM(nn.Module):
    def __init__(self, n, d=48):
        super().__init__()
        self.emb = nn.Embedding(n, d)
        self.pos = nn.Embedding(32, d)
        self.layer = nn.TransformerEncoderLayer(d, 4, 96, batch_first=True)
        self.out = nn.Linear(d, n)

    def forward(self, x):
        T = x.size(1)
        h = self.emb(x) + self.pos(torch.arange(T))
        return self.out(self.layer(h, src_mask=nn.Transformer.generate_square_subsequent_mask(T)))


model = LM(len(chars))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

model.eval()
losses = []
with torch.no_grad():
    for i in range(0, len(ids) - 33, 32):
        x = ids[i:i + 32].unsqueeze(0)
        y = ids[i + 1:i + 33].unsqueeze(0)
        losses.append(F.cross_entropy(model(x).transpose(1, 2), y).item())

mean = sum(losses) / len(losses)
print('loss %.3f perplexity %.1f' % (mean, math.exp(mean)))
