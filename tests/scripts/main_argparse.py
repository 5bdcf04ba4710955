"""
Train a small Transformer language model on a text file.

Example:
    python main_argparse.py --lr 3e-3 --batch-size 16 --epochs 20
"""
import argparse
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

HERE = os.path.dirname(os.path.abspath(__file__))


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Corpus(Dataset):
    """Sliding windows over the characters of a text."""

    def __init__(self, ids, seq_len, stride):
        self.ids = ids
        self.seq_len = seq_len
        self.starts = list(range(0, len(ids) - seq_len - 1, stride))

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        i = self.starts[index]
        chunk = self.ids[i:i + self.seq_len + 1]
        return chunk[:-1], chunk[1:]


class PositionalEncoding(nn.Module):
    def __init__(self, d_model, dropout=0.1, max_len=512):
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        pe = torch.zeros(max_len, d_model)
        position = torch.arange(0, max_len, dtype=torch.float).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(position * div_term)
        pe[:, 1::2] = torch.cos(position * div_term)
        self.register_buffer('pe', pe.unsqueeze(0))

    def forward(self, x):
        x = x + self.pe[:, :x.size(1)]
        return self.dropout(x)


class TransformerLM(nn.Module):
    def __init__(self, ntoken, d_model, nhead, d_hid, nlayers, dropout):
        super().__init__()
        self.embed = nn.Embedding(ntoken, d_model)
        self.pos_encoder = PositionalEncoding(d_model, dropout)
        layer = nn.TransformerEncoderLayer(d_model, nhead, d_hid, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, nlayers, norm=nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.decoder = nn.Linear(d_model, ntoken)
        self.d_model = d_model
        self.init_weights()

    def init_weights(self):
        nn.init.normal_(self.embed.weight, std=self.d_model ** -0.5)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, src):
        mask = nn.Transformer.generate_square_subsequent_mask(src.size(1), device=src.device)
        x = self.embed(src) * math.sqrt(self.d_model)
        x = self.pos_encoder(x)
        x = self.encoder(x, mask=mask)
        return self.decoder(x)


def train_epoch(model, loader, criterion, optimizer, scheduler, args, epoch):
    model.train()
    total_loss = 0.
    start = time.time()
    for step, (inputs, targets) in enumerate(loader):
        inputs, targets = inputs.to(args.device), targets.to(args.device)
        optimizer.zero_grad()
        output = model(inputs)
        loss = criterion(output.reshape(-1, output.size(-1)), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        scheduler.step()

        total_loss += loss.item()
        if step % args.log_interval == 0 and step > 0:
            lr = scheduler.get_last_lr()[0]
            print(f'| epoch {epoch:3d} | {step:4d}/{len(loader):4d} batches | lr {lr:.2e} '
                  f'| {(time.time() - start) * 1000 / step:5.2f} ms/batch | loss {total_loss / (step + 1):5.2f}')
    return total_loss / len(loader)


def evaluate(model, loader, criterion, args):
    model.eval()
    total_loss = 0.
    count = 0
    with torch.no_grad():
        for inputs, targets in loader:
            inputs, targets = inputs.to(args.device), targets.to(args.device)
            output = model(inputs)
            loss = criterion(output.reshape(-1, output.size(-1)), targets.reshape(-1))
            total_loss += loss.item() * inputs.size(0)
            count += inputs.size(0)
    return total_loss / count


def get_args():
    parser = argparse.ArgumentParser(description='Transformer language model')
    parser.add_argument('--data', type=str, default=os.path.join(HERE, 'data', 'poems.txt'))
    parser.add_argument('--d-model', type=int, default=64)
    parser.add_argument('--nhead', type=int, default=4)
    parser.add_argument('--nlayers', type=int, default=2)
    parser.add_argument('--dropout', type=float, default=0.1)
    parser.add_argument('--seq-len', type=int, default=40)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--warmup', type=int, default=20, help='warm-up steps')
    parser.add_argument('--weight-decay', type=float, default=0.01)
    parser.add_argument('--clip', type=float, default=1.0)
    parser.add_argument('--epochs', type=int, default=40)
    parser.add_argument('--log-interval', type=int, default=20)
    parser.add_argument('--seed', type=int, default=42)
    parser.add_argument('--device', type=str, default='cpu')
    return parser.parse_args()


def main():
    args = get_args()
    set_seed(args.seed)
    print(args)

    text = open(args.data, encoding='utf-8').read()
    vocab = sorted(set(text))
    lookup = {c: i for i, c in enumerate(vocab)}
    ids = torch.tensor([lookup[c] for c in text])
    split = int(len(ids) * 0.85)
    train_set = Corpus(ids[:split], args.seq_len, stride=3)
    val_set = Corpus(ids[split:], args.seq_len, stride=args.seq_len)
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=args.batch_size)
    print(f'{len(vocab)} characters, {len(train_set)} training windows, {len(val_set)} validation windows')

    model = TransformerLM(len(vocab), args.d_model, args.nhead, 4 * args.d_model, args.nlayers, args.dropout)
    model = model.to(args.device)
    print(f'Model has {sum(p.numel() for p in model.parameters() if p.requires_grad):,} trainable parameters')

    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    total_steps = args.epochs * len(train_loader)

    def lr_lambda(step):
        # linear warm-up, then cosine down to zero
        if step < args.warmup:
            return (step + 1) / args.warmup
        progress = (step - args.warmup) / max(1, total_steps - args.warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)

    best_val = float('inf')
    for epoch in range(1, args.epochs + 1):
        train_loss = train_epoch(model, train_loader, criterion, optimizer, scheduler, args, epoch)
        val_loss = evaluate(model, val_loader, criterion, args)
        print('-' * 80)
        print(f'| end of epoch {epoch:3d} | train loss {train_loss:5.3f} | valid loss {val_loss:5.3f} '
              f'| valid ppl {math.exp(val_loss):8.2f}')
        print('-' * 80)
        if val_loss < best_val:
            best_val = val_loss
            torch.save(model.state_dict(), 'best_model.pt')


if __name__ == '__main__':
    main()
