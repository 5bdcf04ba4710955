"""Training loops in the shapes of public code, each a few steps long on sizes that are prime.

A loop takes nothing and gives (its losses, everything that must stay alive). What is asked of each is in its entry.
"""

import copy
import math
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Run = tuple[list[float], Any]
STEPS, ROWS, TIME, WIDTH, VOCAB = 5, 3, 7, 11, 13
LOOPS: dict[str, Callable[[], Run]] = {}
"""Every loop by its name, which says what is special about it."""
UNPLAYABLE: dict[str, str] = {}
"""Loops that cannot be played again: what must be said of each, as a regular expression."""
INEXACT: dict[str, str] = {}
"""Loops that are played again, but not to the last digit, and why."""
IN_TWO_PARTS: dict[str, int] = {}
"""Loops whose backward passes are of more than one kind: how many of them are left out."""


def loop(run: Callable[[], Run]) -> Callable[[], Run]:
    """Enter a loop into LOOPS."""
    LOOPS[run.__name__] = run
    return run


class Tokens(nn.Module):
    """An embedding, something over time, a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.mixed = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.mixed(self.embedding(tokens).cumsum(1)))))

    def encode(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.mixed(self.embedding(tokens)))


DATA = torch.randint(VOCAB, (211,), generator=torch.Generator().manual_seed(5))


def windows(steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    """Next-token batches, as nanoGPT cuts them."""
    for _ in range(steps):
        ix = torch.randint(len(DATA) - TIME - 1, (ROWS,))
        yield torch.stack([DATA[i : i + TIME] for i in ix]), torch.stack([DATA[i + 1 : i + TIME + 1] for i in ix])


def entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The usual loss."""
    return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def language_model(
    loss_of: Callable[[Any, Tensor, Tensor], Tensor] = lambda model, x, y: entropy(model(x), y),
    model: Any = None,
    optimizer: Callable[..., Any] = lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    after: Callable[[Any, Any, int], None] = lambda model, optimizer, step: None,
    clip: Callable[[Any], Any] | None = None,
) -> Run:
    """The ordinary loop with one thing changed."""
    model = Tokens() if model is None else model
    opt = optimizer(model.parameters())
    losses = []
    for step, (x, y) in enumerate(windows()):
        opt.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        if clip:
            clip(model)
        opt.step()
        after(model, opt, step)
        losses.append(loss.item())
    return losses, (model, opt)


@loop
def nanogpt() -> Run:
    model = Tokens(dropout=0.3)
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
         {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.95),
    )  # fmt: skip
    losses, batches = [], windows(2 * STEPS)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1) / STEPS
        for _ in range(2):
            x, y = next(batches)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = entropy(model(x), y) / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses, (model, optimizer)


@loop
def makemore_with_parameters_in_no_module() -> Run:
    generator = torch.Generator().manual_seed(7)
    table = torch.randn((VOCAB, 2), generator=generator)
    w1 = torch.randn((3 * 2, WIDTH), generator=generator)
    b1 = torch.randn(WIDTH, generator=generator)
    w2 = torch.randn((WIDTH, VOCAB), generator=generator) * 0.1
    parameters = [table, w1, b1, w2]
    for p in parameters:
        p.requires_grad = True
    inputs = torch.randint(VOCAB, (101, 3), generator=generator)
    targets = inputs.sum(1) % VOCAB
    losses = []
    for _ in range(STEPS):
        ix = torch.randint(0, inputs.shape[0], (ROWS,))
        emb = table[inputs[ix]]
        h = torch.tanh(emb.view(emb.shape[0], -1) @ w1 + b1)
        loss = F.cross_entropy(h @ w2, targets[ix])
        for p in parameters:
            p.grad = None
        loss.backward()
        for p in parameters:
            p.data += -0.1 * p.grad
        losses.append(loss.item())
    return losses, parameters


UNPLAYABLE["makemore_with_parameters_in_no_module"] = "no optimizer ever took a step"


@loop
def loose_parameters_with_an_optimizer() -> Run:
    table = torch.randn(VOCAB, WIDTH, requires_grad=True)
    head = torch.randn(WIDTH, VOCAB, requires_grad=True)
    optimizer = torch.optim.SGD([table, head], lr=0.1)
    losses = []
    for x, y in windows():
        loss = entropy(table[x] @ head, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (table, head, optimizer)


INEXACT["loose_parameters_with_an_optimizer"] = "a plain tensor with a gradient is no parameter of the replica yet"


@loop
def model_called_by_method() -> Run:
    return language_model(lambda model, x, y: entropy(model.head(model.encode(x)), y))


@loop
def forward_called_by_name() -> Run:
    return language_model(lambda model, x, y: entropy(model.forward(x), y))


@loop
def mask_made_in_the_loop() -> Run:
    layer = nn.TransformerEncoderLayer(WIDTH, 1, 17, dropout=0.1, batch_first=True)
    model = nn.ModuleDict({"embedding": nn.Embedding(VOCAB, WIDTH), "layer": layer, "head": nn.Linear(WIDTH, VOCAB)})

    def loss_of(m: Any, x: Tensor, y: Tensor) -> Tensor:
        mask = torch.triu(torch.full((x.size(1), x.size(1)), float("-inf")), diagonal=1)
        return entropy(m["head"](m["layer"](m["embedding"](x), src_mask=mask)), y)

    return language_model(loss_of, model)


@loop
def class_weights_and_label_smoothing() -> Run:
    criterion = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, VOCAB), label_smoothing=0.1, ignore_index=0)
    return language_model(lambda model, x, y: criterion(model(x).transpose(1, 2), y))


@loop
def bert_with_random_masking() -> Run:
    def loss_of(model: Any, x: Tensor, _: Tensor) -> Tensor:
        inputs, labels = x.clone(), x.clone()
        chosen = torch.bernoulli(torch.full(labels.shape, 0.4)).bool()
        chosen[0, 0] = True
        labels[~chosen] = -100
        replaced = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
        inputs[replaced] = 1
        inputs.masked_fill_(inputs == 2, 3)
        return F.cross_entropy(model(inputs).view(-1, VOCAB), labels.view(-1))

    return language_model(loss_of)


@loop
def diffusion_with_random_noise() -> Run:
    model = nn.Sequential(nn.Linear(WIDTH + 1, 17), nn.SiLU(), nn.Linear(17, WIDTH))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    betas = torch.linspace(1e-4, 0.02, 19)
    kept = torch.cumprod(1 - betas, 0)
    data, losses = torch.randn(101, WIDTH), []
    for step in range(STEPS):
        x0 = data[step * ROWS : (step + 1) * ROWS]
        t = torch.randint(0, 19, (x0.shape[0],))
        noise = torch.randn_like(x0)
        a = kept[t].unsqueeze(-1)
        xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
        loss = F.mse_loss(model(torch.cat([xt, t.float().unsqueeze(-1) / 19], -1)), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (model, optimizer)


class VAE(nn.Module):
    """As in the examples of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.mu, self.logvar = nn.Linear(WIDTH, 7), nn.Linear(7, 3), nn.Linear(7, 3)
        self.out = nn.Linear(3, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.out(z)), mu, logvar


@loop
def vae_with_a_tuple_for_output() -> Run:
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    data, losses = torch.rand(STEPS * ROWS, 1, WIDTH), []
    for batch in data.split(ROWS):
        batch = batch.view(-1, WIDTH)
        optimizer.zero_grad()
        recon, mu, logvar = model(batch)
        bce = F.binary_cross_entropy(recon, batch, reduction="sum")
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = bce + kld
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (model, optimizer)


class Decoder(nn.Module):
    """One step of a decoder with a hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(VOCAB, WIDTH), nn.GRUCell(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, token: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.embedding(token), hidden)
        return self.head(hidden), hidden


@loop
def seq2seq_with_teacher_forcing_step_by_step() -> Run:
    encoder, decoder = nn.GRU(WIDTH, WIDTH, batch_first=True), Decoder()
    source = nn.Embedding(VOCAB, WIDTH)
    first = torch.optim.SGD([*encoder.parameters(), *source.parameters()], lr=0.1)
    second = torch.optim.SGD(decoder.parameters(), lr=0.1)
    losses = []
    for x, y in windows():
        first.zero_grad()
        second.zero_grad()
        _, hidden = encoder(source(x))
        hidden, token = hidden[0], torch.zeros(len(x), dtype=torch.long)
        loss = torch.zeros(())
        forced = torch.rand(()).item() < 0.5
        for t in range(y.size(1)):
            output, hidden = decoder(token, hidden)
            loss = loss + F.cross_entropy(output, y[:, t])
            token = y[:, t] if forced else output.argmax(-1).detach()
        loss.backward()
        first.step()
        second.step()
        losses.append(loss.item() / y.size(1))
    return losses, (encoder, decoder, source)


class RNNModel(nn.Module):
    """word_language_model of the examples of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rnn, self.decoder = nn.Embedding(VOCAB, WIDTH), nn.LSTM(WIDTH, 7), nn.Linear(7, VOCAB)

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        output, hidden = self.rnn(self.encoder(x), hidden)
        return F.log_softmax(self.decoder(output).view(-1, VOCAB), dim=1), hidden


@loop
def hidden_state_carried_over_and_detached() -> Run:
    model = RNNModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    source = DATA[: 210 // ROWS * ROWS].view(ROWS, -1).t().contiguous()
    hidden = (torch.zeros(1, ROWS, 7), torch.zeros(1, ROWS, 7))
    losses = []
    for i in range(0, STEPS * TIME, TIME):
        x, y = source[i : i + TIME], source[i + 1 : i + 1 + TIME].view(-1)
        model.zero_grad()
        hidden = tuple(h.detach() for h in hidden)
        output, hidden = model(x, hidden)
        loss = F.nll_loss(output, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        losses.append(loss.item())
    return losses, (model, optimizer)


@loop
def policy_gradient() -> Run:
    policy = nn.Sequential(nn.Linear(5, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        state, log_probs, rewards = torch.randn(5), [], []
        for _ in range(3):
            m = torch.distributions.Categorical(F.softmax(policy(state), dim=-1))
            action = m.sample()
            log_probs.append(m.log_prob(action))
            state = state * 0.5 + action.item()
            rewards.append(float(action))
        returns = torch.tensor(rewards) - 0.3
        optimizer.zero_grad()
        loss = torch.stack([-lp * R for lp, R in zip(log_probs, returns, strict=True)]).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, policy


@loop
def contrastive() -> Run:
    tower, other = nn.Linear(WIDTH, 5), nn.Linear(7, 5)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    optimizer = torch.optim.AdamW([*tower.parameters(), *other.parameters(), scale], lr=1e-2)
    losses = []
    for _ in range(STEPS):
        a, b = F.normalize(tower(torch.randn(ROWS, WIDTH)), dim=-1), F.normalize(other(torch.randn(ROWS, 7)), dim=-1)
        logits = scale.exp() * a @ b.t()
        labels = torch.arange(ROWS)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (tower, other, scale)


@loop
def knowledge_distillation() -> Run:
    teacher, student = Tokens().eval(), Tokens()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for x, y in windows():
        with torch.no_grad():
            soft = teacher(x)
        logits = student(x)
        loss = entropy(logits, y) * 0.5 + 0.5 * 4 * F.kl_div(
            F.log_softmax(logits / 2, -1), F.softmax(soft / 2, -1), reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (teacher, student)


@loop
def several_tasks_with_learned_weights() -> Run:
    trunk, heads = nn.Linear(WIDTH, 7), nn.ModuleList([nn.Linear(7, 2), nn.Linear(7, 3)])
    log_sigma = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters(), log_sigma], lr=1e-2)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(ROWS, WIDTH)
        h = trunk(x).relu()
        each = torch.stack([F.mse_loss(heads[0](h), x[:, :2]), F.cross_entropy(heads[1](h), x[:, :3].argmax(1))])
        loss = (each * torch.exp(-log_sigma) + log_sigma).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (trunk, heads, log_sigma)


Output = namedtuple("Output", "loss logits")


class OwnLoss(Tokens):
    """A model that computes its loss, and returns both by name."""

    def forward(self, tokens: Tensor, labels: Tensor) -> Any:
        logits = super().forward(tokens)
        return Output(entropy(logits, labels), logits)


@loop
def loss_by_name() -> Run:
    return language_model(lambda model, x, y: model(x, labels=y).loss, OwnLoss())


class TakesDict(Tokens):
    """A model that takes a dict and returns a dict."""

    def forward(self, batch: dict[str, Tensor]) -> Any:
        return {"logits": super().forward(batch["x"]), "extra": None}


@loop
def dict_in_and_out() -> Run:
    return language_model(lambda model, x, y: entropy(model({"x": x, "y": y})["logits"], y), TakesDict())


class Tied(Tokens):
    """A head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embedding.weight
        self.register_buffer("prior", torch.linspace(-1, 1, VOCAB))


@loop
def tied_weights_and_a_buffer_used_outside() -> Run:
    return language_model(lambda model, x, y: entropy(model(x) + model.prior, y), Tied())


@loop
def clip_by_value() -> Run:
    return language_model(clip=lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.01))


@loop
def clip_by_norm_imported_by_name() -> Run:
    return language_model(clip=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.1))


@loop
def momentum_and_gradients_set_to_none_by_hand() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for x, y in windows():
        for p in model.parameters():
            p.grad = None
        loss = entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@loop
def zero_grad_missing() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, y in windows():
        loss = entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@loop
def zero_grad_between_backward_and_step() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for x, y in windows():
        loss = entropy(model(x), y)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@loop
def step_twice() -> Run:
    return language_model(after=lambda model, optimizer, step: optimizer.step())


@loop
def gradients_edited_by_hand() -> Run:
    def clip(model: nn.Module) -> None:
        for p in model.parameters():
            p.grad.mul_(0.5)

    return language_model(clip=clip, optimizer=lambda p: torch.optim.SGD(p, lr=0.3))


INEXACT["gradients_edited_by_hand"] = "torch shows no edit of .grad as an event of the loop"


@loop
def gan() -> Run:
    generator, critic = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1)
    opt_g, opt_d = torch.optim.Adam(generator.parameters(), lr=0.01), torch.optim.Adam(critic.parameters(), lr=0.01)
    criterion, losses = nn.BCEWithLogitsLoss(), []
    for _ in range(STEPS):
        real, fake = torch.randn(ROWS, WIDTH), generator(torch.randn(ROWS, 5))
        opt_d.zero_grad()
        loss_d = criterion(critic(real), torch.ones(ROWS, 1)) + criterion(critic(fake.detach()), torch.zeros(ROWS, 1))
        loss_d.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = criterion(critic(generator(torch.randn(ROWS, 5))), torch.ones(ROWS, 1))
        loss_g.backward()
        opt_g.step()
        losses += [loss_d.item(), loss_g.item()]
    return losses, (generator, critic)


IN_TWO_PARTS["gan"] = STEPS


@loop
def gan_that_goes_back_through_a_sample_from_before_a_step() -> Run:
    generator, critic = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1)
    opt_g, opt_d = torch.optim.SGD(generator.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.01)
    losses = []
    for _ in range(STEPS):
        fake = generator(torch.randn(ROWS, 5))
        opt_d.zero_grad()
        (critic(fake.detach()).mean() - critic(torch.randn(ROWS, WIDTH)).mean()).backward()
        opt_d.step()
        opt_g.zero_grad()
        loss = -critic(fake).mean()
        loss.backward()
        opt_g.step()
        losses.append(loss.item())
    return losses, (generator, critic)


UNSEEN = frozenset({"gan_that_goes_back_through_a_sample_from_before_a_step"})
"""Loops some of whose losses reach back behind an optimizer step, so that no whole step can be played."""


@loop
def accumulation_without_division() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step, (x, y) in enumerate(windows(3 * STEPS)):
        loss = entropy(model(x), y)
        loss.backward()
        if (step + 1) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses, model


@loop
def lbfgs() -> Run:
    model = nn.Linear(WIDTH, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    x, losses = torch.randn(ROWS, WIDTH), []
    for _ in range(STEPS):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), x.sum(1, keepdim=True))
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses, model


UNPLAYABLE["lbfgs"] = "LBFGS computes the loss several times in one step"


@loop
def closure_evaluated_once() -> Run:
    model = Tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for x, y in windows():

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            loss = entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses, model


@loop
def resumed_optimizer() -> Run:
    before = Tokens()
    old = torch.optim.AdamW(before.parameters(), lr=0.01)
    entropy(before(DATA[:TIME][None]), DATA[1 : TIME + 1][None]).backward()
    old_state = copy.deepcopy(before.state_dict())
    model = Tokens()
    model.load_state_dict(old_state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    for p in before.parameters():
        old.state[p] = {"step": torch.tensor(3.0), "exp_avg": torch.ones_like(p), "exp_avg_sq": torch.ones_like(p)}
    optimizer.load_state_dict(old.state_dict())
    return language_model(model=model, optimizer=lambda parameters: optimizer)


INEXACT["resumed_optimizer"] = "what an optimizer remembers from a checkpoint is not played"


@loop
def moving_average_in_the_loop() -> Run:
    model = Tokens()
    average = copy.deepcopy(model)

    @torch.no_grad()
    def after(model: nn.Module, optimizer: Any, step: int) -> None:
        for own, theirs in zip(average.parameters(), model.parameters(), strict=True):
            own.mul_(0.9).add_(theirs, alpha=0.1)
        average(DATA[:TIME][None])

    losses, kept = language_model(model=model, after=after)
    return losses, (average, kept)


@loop
def loss_of_a_vector() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, y in windows():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
        loss.backward(torch.ones_like(loss))
        optimizer.step()
        losses.append(loss.mean().item())
    return losses, model


UNPLAYABLE["loss_of_a_vector"] = "backward was called on something else than one number"


class Square(torch.autograd.Function):
    """A loss with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return g * 2 * x / x.numel()


@loop
def loss_by_an_autograd_function() -> Run:
    return language_model(lambda model, x, y: Square.apply(model(x)) * 1.0)


@loop
def gradients_by_autograd_grad() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, y in windows():
        loss = entropy(model(x), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.grad = g
        optimizer.step()
        losses.append(loss.item())
    return losses, model


UNPLAYABLE["gradients_by_autograd_grad"] = r"steps without any loss\.backward\(\) \(torch\.autograd\.grad\?\)"


class Sign(torch.optim.Optimizer):
    """An optimizer of the user's own."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


@loop
def optimizer_of_their_own() -> Run:
    return language_model(optimizer=Sign)


@loop
def losses_kept_with_their_graphs() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = []
    for x, y in windows():
        optimizer.zero_grad()
        loss = entropy(model(x), y)
        loss.backward()
        optimizer.step()
        kept.append(loss)
    return [each.item() for each in kept], (model, kept)


class Counting(torch.overrides.TorchFunctionMode):
    """A mode of the user's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@loop
def mode_of_their_own() -> Run:
    with Counting():
        return language_model()


@loop
def device_as_a_context() -> Run:
    with torch.device("cpu"):
        return language_model(lambda model, x, y: entropy(model(x) + torch.zeros(VOCAB), y))


@loop
def rows_chosen_from_a_dataset_tensor() -> Run:
    data = torch.randn(1009, WIDTH)
    model = nn.Sequential(nn.Linear(WIDTH, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for ix in torch.randperm(1009)[: STEPS * ROWS].split(ROWS):
        loss = F.mse_loss(model(data[ix]), data[ix, :2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, (model, data)


@loop
def validation_between_the_steps() -> Run:
    @torch.no_grad()
    def after(model: nn.Module, optimizer: Any, step: int) -> None:
        model.eval()
        x = DATA[:3][None]
        for _ in range(7):
            x = torch.cat([x, torch.multinomial(F.softmax(model(x)[:, -1], -1), 1)], 1)
        model.train()

    return language_model(model=Tokens(dropout=0.3), after=after)


@loop
def another_model_in_a_thread() -> Run:
    other = Tokens()

    def after(model: nn.Module, optimizer: Any, step: int) -> None:
        thread = threading.Thread(target=lambda: other(DATA[:TIME][None]))
        thread.start()
        thread.join()

    losses, kept = language_model(after=after)
    return losses, (other, kept)


@loop
def batches_from_worker_processes() -> Run:
    data = torch.utils.data.TensorDataset(DATA[:105].view(15, 7), DATA[1:106].view(15, 7))
    loader = torch.utils.data.DataLoader(data, ROWS, shuffle=True, num_workers=1)
    model = Tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for x, y in loader:
        loss = entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model


@loop
def gradient_scaler() -> Run:
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    losses = []
    for x, y in windows():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses, (model, scaler)


@loop
def frozen_backbone_and_weight_penalty() -> Run:
    model = Tokens()
    model.embedding.requires_grad_(False)

    def loss_of(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return entropy(m(x), y) + 1e-3 * sum(p.pow(2).sum() for p in m.parameters() if p.requires_grad)

    return language_model(loss_of, model)


@loop
def annotated_transformer_with_a_token_count() -> Run:
    criterion = nn.KLDivLoss(reduction="sum")

    def loss_of(model: Any, x: Tensor, y: Tensor) -> Tensor:
        log_p = F.log_softmax(model(x), -1).contiguous().view(-1, VOCAB)
        target = y.contiguous().view(-1)
        true = log_p.data.clone().fill_(0.1 / (VOCAB - 2))
        true.scatter_(1, target.data.unsqueeze(1), 0.9)
        true[:, 0] = 0
        mask = torch.nonzero(target.data == 0)
        if mask.dim() > 0:
            true.index_fill_(0, mask.squeeze(1), 0.0)
        return criterion(log_p, true.clone().detach()) / (y != 0).data.sum()

    return language_model(loss_of)


@loop
def d2l_with_masked_softmax_loss() -> Run:
    def loss_of(model: Any, x: Tensor, y: Tensor) -> Tensor:
        lengths = torch.tensor([TIME, 3, 5])
        weights = torch.ones_like(y)
        weights[~(torch.arange(TIME)[None, :] < lengths[:, None])] = 0
        each = F.cross_entropy(model(x).permute(0, 2, 1), y, reduction="none")
        return (each * weights).mean(dim=1).sum()

    return language_model(loss_of)


def scheduled(made: Callable[[Any], Any], metric: bool = False) -> Run:
    """The ordinary loop under a scheduler."""
    model = Tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = made(optimizer)
    losses = []
    for x, y in windows(7):
        loss = entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(*([loss.item()] if metric else []))
        losses.append(loss.item())
    return losses, (model, scheduler)


@loop
def noam() -> Run:
    return scheduled(lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: min((s + 1) ** -0.5, (s + 1) * 3**-1.5)))


@loop
def one_cycle() -> Run:
    return scheduled(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=11))


@loop
def reduce_on_plateau() -> Run:
    return scheduled(lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5), metric=True)


@loop
def warm_restarts() -> Run:
    return scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3))
