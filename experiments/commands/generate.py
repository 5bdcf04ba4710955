"""`unplateau generate`: text from a run."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.commands.console import hint


def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, as train leaves it.")],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="How the text begins; for a translation, the line to translate."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to add (a translation may end earlier).", min=1)] = 100,
    temperature: Annotated[float, typer.Option(help="Below 1 favours the likely tokens.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from this many most likely tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the fewest tokens whose probabilities reach this, in (0, 1].")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the most likely token instead of drawing.")] = False,
    beam: Annotated[
        int | None, typer.Option(help="Search with this many unfinished texts instead of drawing.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides what is drawn.", min=0)] = 0,
) -> None:
    """Write text with a trained run.

    A language model continues the prompt; a run on pairs translates it by beam search; a stuck run writes as its own
    code would.
    """
    from experiments.writing import load_writer
    from transformer.generation import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    if beam is not None and sampling != Sampling():
        raise ValueError("--beam searches and draws nothing; leave out --temperature, --top-k, --top-p and --greedy")
    typer.echo(load_writer(run).text(prompt, num_tokens=tokens, sampling=sampling, beam=beam, seed=seed))
    hint(f"unplateau generate {run} --prompt TEXT --temperature 0.7")
