# Train a tiny GPT-2 from scratch with the Trainer
from torch.utils.data import Dataset
import torch

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(42)

MAX_LENGTH = 48


class CharTokenizer:
    """no hub here, so characters it is"""

    def __init__(self, text):
        self.chars = sorted(set(text))
        self.ids = {c: i for i, c in enumerate(self.chars)}

    def __len__(self):
        return len(self.chars)

    def encode(self, text):
        return [self.ids[c] for c in text]


class PoemDataset(Dataset):
    def __init__(self, ids, block_size, stride=8):
        self.examples = []
        for i in range(0, len(ids) - block_size, stride):
            self.examples.append(torch.tensor(ids[i : i + block_size]))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, idx):
        input_ids = self.examples[idx]
        # the model shifts the labels itself
        return {"input_ids": input_ids, "labels": input_ids.clone()}


with open("data/poems.txt") as f:
    text = f.read()

tokenizer = CharTokenizer(text)
ids = tokenizer.encode(text)
train_dataset = PoemDataset(ids[:-600], MAX_LENGTH)
eval_dataset = PoemDataset(ids[-600:], MAX_LENGTH, stride=MAX_LENGTH)

config = GPT2Config(
    vocab_size=len(tokenizer),
    n_positions=MAX_LENGTH,
    n_embd=64,
    n_layer=2,
    n_head=4,
    bos_token_id=0,
    eos_token_id=0,
)
model = GPT2LMHeadModel(config)
print(f"GPT-2 size: {model.num_parameters() / 1000:.1f}K parameters")

training_args = TrainingArguments(
    output_dir="./tiny-gpt2-poems",
    num_train_epochs=100,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=16,
    learning_rate=3e-3,
    weight_decay=0.01,
    warmup_steps=10,
    lr_scheduler_type="cosine",
    max_grad_norm=1.0,
    logging_steps=20,
    eval_strategy="steps",
    eval_steps=100,
    save_steps=50,
    save_total_limit=2,
    report_to="none",
    use_cpu=True,
    seed=42,
)

trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
)

trainer.train()
trainer.save_model("./tiny-gpt2-poems/final")
print(trainer.evaluate())
