# sanity check: can the model overfit ONE batch? loss must go to ~0
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(123)

vocab_size = 50
seq_len = 24
batch = 8

# one fixed batch of random tokens
tokens = torch.randint(0, vocab_size, (batch, seq_len + 1))
x = tokens[:, :-1]
y = tokens[:, 1:]


class Decoder(nn.Module):
    def __init__(self, d=64, h=4, n=2):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, d)
        self.pos = nn.Embedding(seq_len, d)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(d, h, 4 * d, dropout=0.0, batch_first=True,
                                                               norm_first=True) for _ in range(n))
        self.norm = nn.LayerNorm(d)
        self.fc = nn.Linear(d, vocab_size)

    def forward(self, x):
        n = x.size(1)
        causal = torch.triu(torch.ones(n, n), diagonal=1).bool()
        h = self.tok(x) + self.pos(torch.arange(n))
        for b in self.blocks:
            h = b(h, src_mask=causal)
        return self.fc(self.norm(h))


model = Decoder()
opt = torch.optim.Adam(model.parameters(), lr=1e-3)

for i in range(3000):
    opt.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits.reshape(-1, vocab_size), y.reshape(-1))
    loss.backward()
    opt.step()
    if i % 50 == 0:
        print(i, loss.item())

print('final loss', loss.item())
