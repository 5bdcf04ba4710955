"""Training scripts as people write them, healthy and with one fault each, and what is to be named first.

A faulty version is its healthy script with a small edit, so that the fault can be read as a diff.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Effect = Literal["stands", "too-low", "not-in-the-loss"]
"""What a fault does to the training loss, beside the healthy script's after as many steps."""

SCRIPTS = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ScriptCase:
    """One script with what is changed in it, and the fault that a diagnosis is to name first.

    Args:
        script: file name below ``tests/scripts``.
        expected: id of the fault in ``diagnostics.faults.CATALOGUE``. None: healthy.
        arguments: what the script is started with.
        edits: (old, new); each old text occurs exactly once in the script.
        effect: whether the fault holds the training loss up, makes it lower than it can honestly be, or does its harm
            elsewhere. Of no meaning where the case is healthy.
        steps: optimizer steps, of all optimizers together, within which the case shows what it is.
        variant: tells cases of one script and one fault apart.
    """

    script: str
    expected: str | None = None
    arguments: tuple[str, ...] = ()
    edits: tuple[tuple[str, str], ...] = ()
    effect: Effect = "stands"
    steps: int = 150
    variant: str = ""

    @property
    def id(self) -> str:
        """``bare_loop:softmax-before-cross-entropy``, ``bare_loop:healthy``."""
        return f"{self.script.removesuffix('.py')}:{self.variant or self.expected or 'healthy'}"

    def text(self) -> str:
        """The script with its edits.

        Raises:
            ValueError: an old text is not there exactly once.
        """
        text = (SCRIPTS / self.script).read_text(encoding="utf-8")
        for old, new in self.edits:
            if (found := text.count(old)) != 1:
                raise ValueError(f"{self.id}: {old!r} must occur exactly once in {self.script}, not {found} times")
            text = text.replace(old, new)
        return text

    def write(self, folder: Path) -> Path:
        """Write the script and copies of the data beside it; returns the script's path."""
        shutil.copytree(SCRIPTS / "data", folder / "data", dirs_exist_ok=True)
        path = folder / self.script
        path.write_text(self.text(), encoding="utf-8")
        return path


BARE_LOOP = (
    ScriptCase(script="bare_loop.py"),
    ScriptCase(
        script="bare_loop.py",
        expected="softmax-before-cross-entropy",
        edits=(
            (
                "logits = self.lm_head(x) # (B,T,vocab_size)",
                "logits = F.softmax(self.lm_head(x), dim=-1) # (B,T,vocab_size)",
            ),
        ),
    ),
    ScriptCase(
        script="bare_loop.py",
        expected="future-token-leak",
        effect="too-low",
        edits=(("        wei = wei.masked_fill(self.tril[:T, :T] == 0, float('-inf')) # (B, T, T)\n", ""),),
    ),
    ScriptCase(
        script="bare_loop.py",
        expected="gradients-not-zeroed",
        edits=(("    optimizer.zero_grad(set_to_none=True)\n", ""),),
    ),
)

MAIN_ARGPARSE = (
    ScriptCase(script="main_argparse.py"),
    ScriptCase(
        script="main_argparse.py",
        expected="learning-rate-decays-to-zero",
        edits=(("total_steps = args.epochs * len(train_loader)", "total_steps = args.epochs"),),
    ),
    ScriptCase(
        script="main_argparse.py",
        expected="learning-rate-too-high",
        arguments=("--lr", "0.3", "--warmup", "0"),
    ),
    ScriptCase(
        script="main_argparse.py",
        expected="targets-not-shifted",
        effect="too-low",
        edits=(("return chunk[:-1], chunk[1:]", "return chunk[:-1], chunk[:-1]"),),
    ),
    ScriptCase(
        script="main_argparse.py",
        expected="parameters-not-in-the-optimizer",
        edits=(("torch.optim.AdamW(model.parameters(), lr", "torch.optim.AdamW(model.decoder.parameters(), lr"),),
    ),
)

SEQ2SEQ_TIME_FIRST = (
    ScriptCase(script="seq2seq_time_first.py"),
    ScriptCase(
        script="seq2seq_time_first.py",
        expected="targets-not-shifted",
        effect="too-low",
        edits=(
            (
                "        tgt_input = tgt[:-1, :]\n\n        src_mask, tgt_mask,",
                "        tgt_input = tgt[1:, :]\n\n        src_mask, tgt_mask,",
            ),
        ),
    ),
    ScriptCase(
        script="seq2seq_time_first.py",
        expected="padding-counted-in-loss",
        effect="too-low",
        edits=(("CrossEntropyLoss(ignore_index=PAD_IDX)", "CrossEntropyLoss()"),),
    ),
    ScriptCase(
        script="seq2seq_time_first.py",
        expected="inverted-mask",
        effect="too-low",
        edits=(("    return ~mask\n", "    return mask\n"),),
    ),
)

LOGITS_AND_LOSS = (
    ScriptCase(script="logits_and_loss.py"),
    ScriptCase(
        script="logits_and_loss.py",
        expected="optimizer-holds-old-parameters",
        edits=(
            (
                "X, Y = get_batch('train') # fetch the very first batch",
                "model = GPT(config) # start again from a clean model\n"
                "X, Y = get_batch('train') # fetch the very first batch",
            ),
        ),
    ),
    ScriptCase(
        script="logits_and_loss.py",
        expected="attention-softmax-over-the-wrong-axis",
        effect="too-low",
        steps=300,
        edits=(("att = F.softmax(att, dim=-1)", "att = F.softmax(att, dim=-2)"),),
    ),
    ScriptCase(
        script="logits_and_loss.py",
        expected="learning-rate-too-low",
        edits=(("learning_rate = 2e-3\nmin_lr = 2e-4", "learning_rate = 2e-8\nmin_lr = 2e-9"),),
    ),
    ScriptCase(
        script="logits_and_loss.py",
        expected="heads-mixed-by-a-view",
        effect="too-low",
        steps=300,
        edits=(
            (
                "y = y.transpose(1, 2).contiguous().view(B, T, C) # re-assemble",
                "y = y.contiguous().view(B, T, C) # re-assemble",
            ),
        ),
    ),
)

CLASSIFIER = (
    ScriptCase(script="classifier.py"),
    ScriptCase(
        script="classifier.py",
        expected="batch-first-mismatch",
        edits=(
            (
                "activation='gelu',\n                                                   batch_first=True)",
                "activation='gelu')",
            ),
        ),
    ),
    ScriptCase(
        script="classifier.py",
        expected="unshuffled-batches",
        edits=(("batch_size=32, shuffle=True", "batch_size=32, shuffle=False"),),
    ),
    ScriptCase(
        script="classifier.py",
        expected="relu-on-the-logits",
        edits=(("return self.head(self.norm(x[:, 0]))", "return F.relu(self.head(self.norm(x[:, 0])))"),),
    ),
)

HF_TRAINER = (
    ScriptCase(script="hf_trainer.py"),
    ScriptCase(
        script="hf_trainer.py",
        expected="targets-shifted-too-far",
        edits=(
            (
                """        # the model shifts the labels itself
        return {"input_ids": input_ids, "labels": input_ids.clone()}""",
                """        return {"input_ids": input_ids[:-1], "labels": input_ids[1:]}""",
            ),
        ),
    ),
    ScriptCase(
        script="hf_trainer.py",
        expected="parameters-frozen",
        edits=(
            (
                """print(f"GPT-2 size""",
                """for p in model.transformer.h.parameters():
    p.requires_grad = False  # only train the head
print(f"GPT-2 size""",
            ),
        ),
    ),
    ScriptCase(
        script="hf_trainer.py",
        expected="learning-rate-too-low",
        edits=(("learning_rate=3e-3", "learning_rate=3e-8"),),
    ),
)

LIGHTNING_MODULE = (
    ScriptCase(script="lightning_module.py"),
    ScriptCase(
        script="lightning_module.py",
        expected="softmax-before-cross-entropy",
        edits=(("return self.head(self.norm(h))", "return self.head(self.norm(h)).softmax(-1)"),),
    ),
    ScriptCase(
        script="lightning_module.py",
        expected="logits-over-the-wrong-axis",
        edits=(
            ("F.cross_entropy(logits.transpose(1, 2), y)", "F.cross_entropy(logits.view(y.size(0), -1, y.size(1)), y)"),
        ),
    ),
    ScriptCase(
        script="lightning_module.py",
        expected="parameters-not-registered",
        steps=200,
        edits=(
            ("self.layers = nn.ModuleList([\n", "self.layers = [\n"),
            (
                "            for _ in range(num_layers)\n        ])\n",
                "            for _ in range(num_layers)\n        ]\n",
            ),
        ),
    ),
)

ACCUMULATE_AMP = (
    ScriptCase(script="accumulate_amp.py"),
    ScriptCase(
        script="accumulate_amp.py",
        expected="scaler-misused",
        edits=(("    scaler.unscale_(optimizer)\n", ""),),
    ),
    ScriptCase(
        script="accumulate_amp.py",
        expected="gradients-zeroed-before-the-step",
        edits=(
            (
                """    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
""",
                """    optimizer.zero_grad()
    scaler.step(optimizer)
    scaler.update()
""",
            ),
        ),
    ),
    ScriptCase(
        script="accumulate_amp.py",
        expected="accumulation-not-normalised",
        edits=(("            loss = loss / ACCUM_STEPS\n", ""),),
    ),
)

TWO_OPTIMIZERS = (
    ScriptCase(script="two_optimizers.py", steps=300),
    ScriptCase(
        script="two_optimizers.py",
        expected="parameters-not-in-the-optimizer",
        steps=300,
        edits=(("if not n.startswith('emb.')]", "if n.startswith('out.')]"),),
    ),
    ScriptCase(
        script="two_optimizers.py",
        expected="gradients-not-zeroed",
        steps=300,
        edits=(("    opt_emb.zero_grad()\n    opt_rest.zero_grad()\n", "    opt_emb.zero_grad()\n"),),
    ),
    ScriptCase(
        script="two_optimizers.py",
        expected="future-token-leak",
        effect="too-low",
        steps=300,
        edits=(("h = block(h, src_mask=causal)", "h = block(h)"),),
    ),
)

WORKERS = (
    ScriptCase(script="workers.py"),
    ScriptCase(
        script="workers.py",
        expected="padding-counted-in-loss",
        effect="too-low",
        edits=(
            (
                "loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1), ignore_index=PAD)",
                "loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))",
            ),
        ),
    ),
    ScriptCase(
        script="workers.py",
        expected="position-blind",
        steps=400,
        edits=(("h = self.tok(x) + self.pos(t)", "h = self.tok(x)"),),
    ),
    ScriptCase(
        script="workers.py",
        expected="mask-too-weak",
        effect="too-low",
        edits=(("scores = scores.masked_fill(hide, -1e9)", "scores = scores.masked_fill(hide, 1e-9)"),),
    ),
)

OWN_LOSS = (
    ScriptCase(script="own_loss.py"),
    ScriptCase(
        script="own_loss.py",
        expected="parameters-not-in-the-optimizer",
        edits=(("itertools.chain(encoder.parameters(), decoder.parameters())", "decoder.parameters()"),),
    ),
    ScriptCase(
        script="own_loss.py",
        expected="padding-counted-in-loss",
        effect="too-low",
        edits=(("keep = (target != PAD).float()", "keep = torch.ones_like(nll)"),),
    ),
    ScriptCase(
        script="own_loss.py",
        expected="label-smoothing-too-strong",
        edits=(("criterion = LabelSmoothingLoss(0.1)", "criterion = LabelSmoothingLoss(0.9)"),),
    ),
    ScriptCase(
        script="own_loss.py",
        expected="future-token-leak",
        effect="too-low",
        edits=((" & subsequent_mask(tgt_in.size(-1))", ""),),
    ),
)

MESSY = (
    ScriptCase(script="messy.py"),
    ScriptCase(
        script="messy.py",
        expected="learning-rate-zero",
        edits=(
            ("WARMUP=30\n", "WARMUP=4000\n"),
            ("lambda s: min(1.0,(s+1)/WARMUP)", "lambda s: min(1.0,(s+1)//WARMUP)"),
        ),
    ),
    ScriptCase(
        script="messy.py",
        expected="history-keeps-the-graph",
        effect="not-in-the-loss",
        edits=(("losses.append(loss.item())", "losses.append(loss)"),),
    ),
    ScriptCase(
        script="messy.py",
        expected="same-batch-again-and-again",
        effect="too-low",
        edits=(("        x,y=batch(tr)\n", "        np.random.seed(seed)\n        x,y=batch(tr)\n"),),
    ),
    ScriptCase(
        script="messy.py",
        expected="targets-not-shifted",
        effect="too-low",
        edits=(("return s[:,:-1],s[:,1:]", "return s[:,:-1],s[:,:-1]"),),
    ),
)

ONE_BATCH = (
    ScriptCase(script="one_batch.py"),
    ScriptCase(
        script="one_batch.py",
        expected="softmax-before-cross-entropy",
        edits=(("return self.fc(self.norm(h))", "return torch.softmax(self.fc(self.norm(h)), dim=-1)"),),
    ),
    ScriptCase(
        script="one_batch.py",
        expected="optimizer-holds-old-parameters",
        edits=(
            (
                "for i in range(3000):",
                "import copy\nmodel = copy.deepcopy(model)  # keep the first weights\n\nfor i in range(3000):",
            ),
        ),
    ),
    ScriptCase(
        script="one_batch.py",
        expected="constant-initialisation",
        edits=(
            (
                "model = Decoder()\n",
                "model = Decoder()\nfor p in model.parameters():\n    nn.init.constant_(p, 0.02)\n",
            ),
        ),
    ),
)

SEED_REPAIRED = (
    ("torch.softmax(self.out(y), dim=-1)", "self.out(self.final(y))"),
    (
        "self.out = nn.Linear(d_model, vocab_sz)",
        "self.final, self.out = nn.LayerNorm(d_model), nn.Linear(d_model, vocab_sz)",
    ),
    ("pred = model(X, Y)", "pred = model(X, X)"),
    ("self.attn(h, h))", "self.attn(h, h, masked=True))"),
    ("self.cross(self.n2(y), memory)", "self.cross(self.n2(y), memory, masked=True)"),
    ("torch.ones(ctx_sz, d_model)", "torch.ones(d_model)"),
    ("torch.zeros(ctx_sz, d_model)", "torch.zeros(d_model)"),
    ("mean = x.mean(dim=1, keepdim=True)", "mean = x.mean(dim=-1, keepdim=True)"),
    ("var = x.var(dim=1,", "var = x.var(dim=-1,"),
    ("self.gamma[:x.shape[1]]", "self.gamma"),
    ("self.beta[:x.shape[1]]", "self.beta"),
    ("self.embedding(ids) * math.sqrt(d_model)", "self.embedding(ids)"),
    ("return x + self.drop(x + self.pe", "return self.drop(x + self.pe"),
    ("lr = 1e-2", "lr = 2e-3"),
    ("losses.append(loss)", "losses.append(loss.item())"),
)
"""All that is wrong with the run to explain, repaired together."""

SEED = (
    ScriptCase(script="seed.py", variant="repaired", edits=SEED_REPAIRED),
    ScriptCase(script="seed.py", expected="softmax-before-cross-entropy"),
    ScriptCase(
        script="seed.py",
        variant="only-the-softmax",
        expected="softmax-before-cross-entropy",
        edits=(*SEED_REPAIRED[1:], ("(self.out(y), dim=-1)", "(self.out(self.final(y)), dim=-1)")),
    ),
    ScriptCase(
        script="seed.py",
        variant="only-the-targets",
        expected="targets-not-shifted",
        effect="too-low",
        edits=(*SEED_REPAIRED[:2], *SEED_REPAIRED[3:]),
    ),
)

RAISES_EARLY = ScriptCase(script="raises_early.py")
"""Raises on its third batch."""

NEVER_STEPS = ScriptCase(script="never_steps.py")
"""Makes a model and an optimizer, and only evaluates."""

CASES: tuple[ScriptCase, ...] = (
    *BARE_LOOP,
    *MAIN_ARGPARSE,
    *SEQ2SEQ_TIME_FIRST,
    *LOGITS_AND_LOSS,
    *CLASSIFIER,
    *HF_TRAINER,
    *LIGHTNING_MODULE,
    *ACCUMULATE_AMP,
    *TWO_OPTIMIZERS,
    *WORKERS,
    *OWN_LOSS,
    *MESSY,
    *ONE_BATCH,
    *SEED,
)
