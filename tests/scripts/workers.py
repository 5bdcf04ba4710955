"""Names, character by character (makemore style), with DataLoader workers and padded batches."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import Dataset, DataLoader, random_split

PAD = 0
START = 1
END = 2


class Names(Dataset):

    def __init__(self, path):
        with open(path) as f:
            self.names = [line.strip() for line in f if line.strip()]
        letters = sorted(set(''.join(self.names)))
        self.stoi = {c: i + 3 for i, c in enumerate(letters)}
        self.vocab_size = len(letters) + 3
        self.max_len = max(len(n) for n in self.names) + 1

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        ids = [START] + [self.stoi[c] for c in self.names[i]] + [END]
        return torch.tensor(ids)


def collate(batch):
    # pad every name to the longest of its batch
    longest = max(len(b) for b in batch)
    out = torch.full((len(batch), longest), PAD, dtype=torch.long)
    for i, b in enumerate(batch):
        out[i, :len(b)] = b
    x = out[:, :-1].contiguous()
    y = out[:, 1:].contiguous()
    return x, y


class MultiHeadSelfAttention(nn.Module):

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)

    def split(self, x):
        B, T, D = x.shape
        return x.view(B, T, self.heads, D // self.heads).transpose(1, 2)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / (D // self.heads) ** 0.5
        hide = torch.ones(T, T, device=x.device).triu(1).bool()
        scores = scores.masked_fill(hide, -1e9)
        attn = torch.softmax(scores, dim=-1)
        ctx = torch.matmul(attn, v).transpose(1, 2).reshape(B, T, D)
        return self.o(ctx)


class NameModel(nn.Module):

    def __init__(self, vocab_size, max_len, dim=64, heads=4):
        super().__init__()
        self.tok = nn.Embedding(vocab_size, dim, padding_idx=PAD)
        self.pos = nn.Embedding(max_len, dim)
        self.ln1 = nn.LayerNorm(dim)
        self.attn = MultiHeadSelfAttention(dim, heads)
        self.ln2 = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.ln_f = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab_size)

    def forward(self, x):
        t = torch.arange(x.size(1), device=x.device)
        h = self.tok(x) + self.pos(t)
        h = h + self.attn(self.ln1(h))
        h = h + self.ff(self.ln2(h))
        return self.head(self.ln_f(h))


def main():
    torch.manual_seed(2024)
    dataset = Names('data/names.txt')
    n_val = len(dataset) // 10
    train_set, val_set = random_split(dataset, [len(dataset) - n_val, n_val])
    train_loader = DataLoader(train_set, batch_size=8, shuffle=True, num_workers=2,
                              collate_fn=collate, persistent_workers=True)
    val_loader = DataLoader(val_set, batch_size=64, collate_fn=collate)

    model = NameModel(dataset.vocab_size, dataset.max_len)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    for epoch in range(100):
        model.train()
        for step, (x, y) in enumerate(train_loader):
            logits = model(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                print(f'epoch {epoch} step {step} loss {loss.item():.4f}')

        model.eval()
        with torch.no_grad():
            total = sum(F.cross_entropy(model(x).transpose(1, 2), y, ignore_index=PAD).item() for x, y in val_loader)
        print(f'epoch {epoch} val loss {total / len(val_loader):.4f}')


if __name__ == '__main__':
    main()
