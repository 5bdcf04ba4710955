# dies on the third batch: its sequences are longer than the position table
import torch
import torch.nn as nn

torch.manual_seed(0)

vocab = 40
max_len = 32

lengths = [24, 32, 40, 16, 28]
batches = [torch.randint(0, vocab, (8, n + 1)) for n in lengths]


class Model(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.emb = nn.Embedding(vocab, d)
        self.pos = nn.Parameter(torch.randn(1, max_len, d) * 0.02)
        self.layer = nn.TransformerEncoderLayer(d, 2, 64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(d, vocab)

    def forward(self, x):
        T = x.shape[1]
        h = self.emb(x) + self.pos[:, :T]
        mask = torch.triu(torch.ones(T, T), 1).bool()
        return self.out(self.layer(h, src_mask=mask))


model = Model()
loss_fn = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for epoch in range(100):
    for b in batches:
        optimizer.zero_grad()
        logits = model(b[:, :-1])
        loss = loss_fn(logits.transpose(1, 2), b[:, 1:])
        loss.backward()
        optimizer.step()
        print(epoch, loss.item())
