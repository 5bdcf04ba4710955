# GPT training with mixed precision and gradient accumulation.
# I don't have a GPU right now so autocast runs in bfloat16 on CPU, the rest is the same.
import math
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(3407)

BATCH = 8            # micro batch that fits into memory
ACCUM_STEPS = 4      # -> effective batch 32
SEQ = 32
DIM, HEADS, LAYERS = 64, 4, 2
LR = 0.4
MAX_STEPS = 4000
CLIP = 5.0
device_type = 'cpu'

text = open('data/poems.txt').read().lower()
vocab = sorted(set(text))
tok = {c: i for i, c in enumerate(vocab)}
data = torch.tensor([tok[c] for c in text])
split = len(data) * 9 // 10
train, valid = data[:split], data[split:]


def sample_batch(source):
    starts = torch.randint(0, len(source) - SEQ - 1, (BATCH,)).tolist()
    chunk = torch.stack([source[s:s + SEQ + 1] for s in starts])
    return chunk[:, :-1], chunk[:, 1:]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.out = nn.Linear(DIM, DIM)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(DIM)
        self.attn = SelfAttention()
        self.norm2 = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TinyGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_emb = nn.Embedding(len(vocab), DIM)
        self.pos_emb = nn.Embedding(SEQ, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(DIM)
        self.head = nn.Linear(DIM, len(vocab), bias=False)

    def forward(self, idx):
        pos = torch.arange(idx.shape[1], device=idx.device)
        x = self.tok_emb(idx) + self.pos_emb(pos)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


@torch.no_grad()
def evaluate():
    model.eval()
    total = 0.0
    for _ in range(10):
        x, y = sample_batch(valid)
        with torch.autocast(device_type=device_type, dtype=torch.bfloat16):
            total += F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    model.train()
    return total / 10


model = TinyGPT()
optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True)
scaler = torch.amp.GradScaler(device_type)

optimizer.zero_grad()
for step in range(MAX_STEPS):
    running = 0.0
    for micro in range(ACCUM_STEPS):
        x, y = sample_batch(train)
        with torch.autocast(device_type=device_type, dtype=torch.bfloat16):
            logits = model(x)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            loss = loss / ACCUM_STEPS
        scaler.scale(loss).backward()
        running += loss.item()

    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()

    if step % 20 == 0:
        print(f'step {step:5d} | loss {running:.4f} | grad norm {norm:.2f} | scale {scaler.get_scale():.0f}')
    if step % 200 == 0:
        val = evaluate()
        print(f'           valid {val:.4f} (ppl {math.exp(val):.1f})')
