"""The embedding table keeps the random numbers that it was drawn with.

Shows as:      a loss that falls slowly and rests above that of the same model with a table that learns.
Why it hurts:  tokens stay random vectors: nothing that is alike becomes alike, and the layers behind must make up for
               it.
Measured by:   embedding-gradient: whether the looked-up table asks for a gradient and whether one comes back to the
               vectors; whether another fresh model holds the same numbers.
Judged by:     a table without a gradient whose numbers are drawn anew for each fresh model, or vectors that are cut off
               from the loss, while most other matrices learn. Grade: proof. A table with the same numbers in every
               fresh model may be pretrained, and the verdict is unclear.
Looks like:    parameters-not-in-the-optimizer, learning-rate-too-low.
Remedy:        from_pretrained(..., freeze=False), no requires_grad = False, and no detach() behind the lookup.
Blind spots:   tables read by indexing or by a product with one-hot vectors; without Subject.build, random numbers
               cannot be told from pretrained ones.
Source:        torch.nn.Embedding.from_pretrained, which freezes by default. MOST: ours; below it, freezing is a choice
               about the whole model.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.unfreeze_embedding import UNFREEZE_EMBEDDING, train_tables
from diagnostics.probes.embedding_gradient import EMBEDDING_GRADIENT, EmbeddingGradient, TokenTable
from diagnostics.subject import Subject

MOST = 0.5


def judge(facts: EmbeddingGradient) -> Verdict:
    """Present where a random table does not learn and the rest does."""
    if not facts.tables:
        return not_tested("no tokens are looked up in a table")
    still = [table for table in facts.tables if not (table.trainable and table.reached)]
    numbers = {"tables": float(len(facts.tables)), "without a gradient": float(len(still))}
    if not still:
        return absent(f"a gradient comes back to all {len(facts.tables)} tables of tokens", **numbers)
    if facts.others_reached < MOST * max(facts.others, 1):
        return unclear(
            f"{len(still)} tables of tokens get no gradient, but nor do most other matrices ({facts.others_reached} of "
            f"{facts.others} do): this is not about the table",
            **numbers,
        )
    wrong = next((table for table in still if table.trainable or table.drawn), None)
    if wrong is None:
        first = still[0]
        return unclear(
            f"{named(first)} does not ask for a gradient; its numbers are the same in every fresh model, or nobody can "
            "draw another: it may be pretrained",
            **numbers,
        )
    why = (
        "its vectors are cut off from the loss (a detach() or no_grad behind the lookup)"
        if wrong.trainable
        else "it does not ask for one (requires_grad is False), and its numbers are random"
    )
    return present(
        f"{named(wrong)} gets no gradient: {why}; {facts.others_reached} of {facts.others} other matrices get one",
        **numbers,
    )


def named(table: TokenTable) -> str:
    """The table in words."""
    return f"the table of {table.rows} tokens" + (f" ({table.name})" if table.name else "")


def plant(subject: Subject) -> Subject:
    """The subject whose token tables do not ask for a gradient."""
    return train_tables(subject, False)


FAULT = Fault(
    id="frozen-embedding",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=48,
    measured_by=(EMBEDDING_GRADIENT,),
    judge=judge,
    plant=plant,
    remedies=(UNFREEZE_EMBEDDING,),
    looks_like=("parameters-not-in-the-optimizer", "learning-rate-too-low"),
    follows_from=("graph-cut", "memory-not-used", "parameters-frozen"),
    wrong="embedding = nn.Embedding.from_pretrained(torch.randn(vocab, d_model))  # freeze=True",
    right="embedding = nn.Embedding(vocab, d_model)",
)
