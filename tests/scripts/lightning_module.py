import math

import lightning as L
import torch
import torch.nn as nn
import torch.nn.functional as F
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Dataset


class TextDataset(Dataset):
    def __init__(self, tokens, seq_len):
        self.tokens = tokens
        self.seq_len = seq_len

    def __len__(self):
        return (len(self.tokens) - 1) // 4 - self.seq_len // 4

    def __getitem__(self, i):
        start = i * 4
        return self.tokens[start:start + self.seq_len], self.tokens[start + 1:start + self.seq_len + 1]


class PoemDataModule(L.LightningDataModule):
    def __init__(self, path="data/poems.txt", seq_len=32, batch_size=16):
        super().__init__()
        self.path = path
        self.seq_len = seq_len
        self.batch_size = batch_size
        with open(path) as f:
            text = f.read()
        vocab = sorted(set(text))
        self.vocab_size = len(vocab)
        stoi = {c: i for i, c in enumerate(vocab)}
        self.tokens = torch.tensor([stoi[c] for c in text])

    def setup(self, stage=None):
        n = int(0.9 * len(self.tokens))
        self.train = TextDataset(self.tokens[:n], self.seq_len)
        self.val = TextDataset(self.tokens[n:], self.seq_len)

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)


class LitTransformer(L.LightningModule):
    def __init__(self, vocab_size, d_model=64, nhead=4, num_layers=2, dim_feedforward=128, seq_len=32,
                 dropout=0.1, lr=1e-3, warmup=20):
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = nn.Parameter(torch.randn(seq_len, d_model) * 0.1)
        self.layers = nn.ModuleList([
            nn.TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation="gelu",
                                       batch_first=True, norm_first=True)
            for _ in range(num_layers)
        ])
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size)

    def forward(self, x):
        t = x.size(1)
        mask = torch.triu(torch.full((t, t), float("-inf"), device=x.device), diagonal=1)
        h = self.embedding(x) + self.positions[:t]
        for layer in self.layers:
            h = layer(h, src_mask=mask)
        return self.head(self.norm(h))

    def _shared_step(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits.transpose(1, 2), y)

    def training_step(self, batch, batch_idx):
        loss = self._shared_step(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        loss = self._shared_step(batch)
        self.log("val_loss", loss, prog_bar=True)
        self.log("val_ppl", math.exp(min(loss.item(), 20)))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / self.hparams.warmup)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


if __name__ == "__main__":
    L.seed_everything(1234)
    dm = PoemDataModule()
    model = LitTransformer(dm.vocab_size)
    trainer = L.Trainer(
        max_epochs=50,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=1.0,
        logger=CSVLogger("logs", name="poems"),
        callbacks=[
            ModelCheckpoint(monitor="val_loss", save_top_k=1, mode="min"),
            LearningRateMonitor(logging_interval="step"),
        ],
        log_every_n_steps=10,
    )
    trainer.fit(model, datamodule=dm)
    trainer.validate(model, datamodule=dm)
