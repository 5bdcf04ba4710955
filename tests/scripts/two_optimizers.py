# sparse embeddings get their own optimizer (SparseAdam), everything else AdamW
import torch
from torch import nn, optim
from tqdm import tqdm

torch.manual_seed(11)

# ---- data: the words of the poems ----
words = open('data/poems.txt').read().lower()
for ch in '.,!?:;"()':
    words = words.replace(ch, ' ' + ch + ' ')
words = words.replace('\n', ' \n ').split(' ')
words = [w for w in words if w]
counts = {}
for w in words:
    counts[w] = counts.get(w, 0) + 1
itos = ['<unk>'] + [w for w, c in sorted(counts.items()) if c > 1]
stoi = {w: i for i, w in enumerate(itos)}
corpus = torch.tensor([stoi.get(w, 0) for w in words])
print(len(words), 'words,', len(itos), 'in the vocabulary')

context = 16
bs = 24


class WordModel(nn.Module):
    def __init__(self, vocab, dim=64, heads=4, layers=2):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, sparse=True)
        self.pos = nn.Parameter(torch.zeros(context, dim))
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            self.blocks.append(nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout=0.0, batch_first=True))
        self.out = nn.Linear(dim, vocab)
        nn.init.normal_(self.emb.weight, std=0.3)
        nn.init.normal_(self.pos, std=0.1)

    def forward(self, x):
        T = x.shape[1]
        causal = torch.ones(T, T, dtype=torch.bool).triu(1)
        h = self.emb(x) + self.pos[:T]
        for block in self.blocks:
            h = block(h, src_mask=causal)
        return self.out(h)


model = WordModel(len(itos))
criterion = nn.CrossEntropyLoss()

emb_params = list(model.emb.parameters())
rest = [p for n, p in model.named_parameters() if not n.startswith('emb.')]
opt_emb = optim.SparseAdam(emb_params, lr=2e-3)
opt_rest = optim.AdamW(rest, lr=1e-3)

pbar = tqdm(range(20000))
avg = None
for it in pbar:
    start = torch.randint(len(corpus) - context - 1, (bs,))
    batch = torch.stack([corpus[s:s + context + 1] for s in start])
    inp, target = batch[:, :-1], batch[:, 1:]

    pred = model(inp)
    loss = criterion(pred.permute(0, 2, 1), target)

    opt_emb.zero_grad()
    opt_rest.zero_grad()
    loss.backward()
    opt_emb.step()
    opt_rest.step()

    avg = loss.item() if avg is None else 0.95 * avg + 0.05 * loss.item()
    pbar.set_description(f'loss {avg:.3f}')
