"""Numbers, lists, trials and milestones in words: the same ones wherever a report speaks."""

import math
import re
import statistics
from collections.abc import Sequence

from diagnostics.diagnosis import Cause, Milestone, Role
from diagnostics.fault import Fault, Finding
from diagnostics.levels import ReferenceLevel
from diagnostics.trial import Trial

ALIKE = 1e-3  # nats: levels this close to the loss are told apart in words

IN_WORDS: dict[Role, str] = {
    "holds the loss up": "holds the loss up: with it removed, the model fits",
    "pins the loss": "pins the loss: keeps it above the floor that another cause allows",
    "holds the honest loss up": "holds the honest loss up: with it removed, new text is predicted better",
    "hidden behind": "hidden behind the causes above: removing it pays once they are removed",
    "flatters the loss": "makes the training loss look better than the predictions are: it gives the answers away",
    "slows learning": "slows learning down: with it removed, the same steps learn far more",
    "misleads the evaluation": "makes the setup's own validation loss say something else than it should",
    "not confirmed": "suspected: present, but no trial could confirm it",
    "no loss shows it": "present; it costs memory, bookkeeping or text, and no loss shows it",
    "follows from others": "present, as a consequence of other causes; it goes away with them",
    "no effect here": "present, and removing it gains nothing that the trials can see",
}
SPOKEN = {
    "uniform": "ln V, the loss of a uniform guess",
    "unigram": "the entropy of the token frequencies",
    "bigram": "the entropy of a token given the one before it",
    "held-out unigram": "the training frequencies on new text",
    "held-out bigram": "the training pairs on new text",
    "double-softmax floor": "the floor of a loss that is given probabilities",
    "double-softmax ceiling": "the ceiling of a loss that is given probabilities",
}


def trial_in_words(cause: Cause) -> str:
    """What a trial on a cause compared and found, with seeds, spread and placebo: the deciding one, which is first."""
    trial = cause.trials[0]
    setting = trial.question.removeprefix(f"repair {cause.id}, ")
    said = f"with {setting}" if setting != trial.question else f"({setting})"
    too_good = "; it was too good to be true" if cause.confirmed and trial.harms else ""
    return f"{fall(trial)} {said} ({seeds(trial.seeds)}; {noise(trial)}){too_good}"


def fall(trial: Trial) -> str:
    """The two means: "the loss of one batch goes from 9 to 2 in the same 7 steps"."""
    before, after = (number(statistics.fmean(side)) for side in (trial.before, trial.after))
    steps = "" if trial.steps is None else f" in the same {count(trial.steps, 'step')}"
    article = "" if trial.quantity.startswith("what ") else "the "
    before = "no number (the run diverges)" if trial.rescues else before
    return f"{article}{trial.quantity} goes from {before} to {after}{steps}"


def noise(trial: Trial) -> str:
    """What moves the loss without a repair: the paired error, another seed, a placebo."""
    if trial.rescues:
        return "every run diverges without the repair, none with it"
    if len(trial.seeds) < 2:
        return f"one seed, so no error bar{_placebo(trial)}"
    alone = f"a seed alone moves it by {number(trial.seed_spread, 2)}"
    return f"paired error {number(trial.effect_error, 2)}, {alone}{_placebo(trial)}"


def _placebo(trial: Trial) -> str:
    return "" if trial.sham_effect is None else f", a placebo moves it by {number(abs(trial.sham_effect), 2)}"


def milestone_in_words(milestone: Milestone, over: Sequence[int]) -> str:
    """The claim, whether it holds, and the values of each seed."""
    if not milestone.values:
        return f"this was not measured: {milestone.claim}"
    each = f"{values(milestone.values)} {milestone.unit} ({seeds(over)})"
    line = f"{number(milestone.bound)}, {milestone.bound_is}"
    if milestone.reached:
        return f"{milestone.claim}: {each}, below {line}"
    return f"this is missed: {milestone.claim}: {each}, not below {line}"


def because_it_hurts(fault: Fault) -> str:
    """Why the fault hurts, from its card."""
    return sentence(fault.card.sections["Why it hurts"])


def measured_by(finding: Finding) -> str:
    """Probes and seeds behind a verdict."""
    if not finding.readings:
        return "no probe"
    return ", ".join(f"{reading.probe} (seed {reading.seed})" for reading in finding.readings)


def between(levels: Sequence[ReferenceLevel], loss: float) -> str:
    """The neighbouring levels of a loss; they come from high to low."""
    above = [level for level in levels if level.nats > loss]
    below = [level for level in levels if level.nats <= loss]
    if not above:
        return f"above every reference level; the highest is {spoken(below[0])}"
    if not below:
        return f"below every reference level; the lowest is {spoken(above[-1])}"
    return f"between {spoken(above[-1])} and {spoken(below[0])}"


def spoken(level: ReferenceLevel) -> str:
    """A level as people say it, with its loss."""
    return f"{SPOKEN.get(level.name, level.name)} ({level.nats:.4f})"


def gap(value: float, line: float) -> str:
    """How far a value lies above or below a line: "2e-04 above", or "on"."""
    distance = abs(value - line)
    if distance < 5e-5:
        return "on"
    size = f"{distance:.0e}".replace("e-0", "e-") if distance < ALIKE else f"{distance:.4f}"
    return f"{size} {'above' if value > line else 'below'}"


def number(value: float, digits: int = 4) -> str:
    """Significant digits; "not a number" for NaN."""
    return f"{value:.{digits}g}" if math.isfinite(value) else "not a number" if math.isnan(value) else "infinite"


def optional(value: float | None) -> str:
    """A number, or that it was not run."""
    return "not run" if value is None else number(value)


def percent(share: float) -> str:
    """A share in whole per cent; what rounds to none is "about 0 %"."""
    whole = round(100 * share)
    return f"{whole} %" if whole else "about 0 %"


def values(several: Sequence[float]) -> str:
    """Numbers in a row."""
    return ", ".join(map(number, several)) or "no value"


def seeds(several: Sequence[int]) -> str:
    """ "seeds 0, 1"."""
    return f"{'seed' if len(several) == 1 else 'seeds'} {', '.join(map(str, several))}"


def count(how_many: int, one: str, many: str = "") -> str:
    """ "2 steps"."""
    return f"{how_many} {one if how_many == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(text: str) -> str:
    """The text with a capital (unless it starts with an identifier or a formula) and a full stop."""
    text = text.strip()
    ended = text if text.endswith((".", "!", "?", ":")) else f"{text}."
    return ended[:1].upper() + ended[1:] if re.match(r"[a-z]+(?=[\s,;:]|\.(\s|$))", ended) else ended


def plain(text: str) -> str:
    """Text in which Markdown and HTML see no markup, on one line."""
    return re.sub(r"([\\`*<|]|(?<!\w)_|_(?!\w)|\](?=\())", r"\\\1", " ".join(text.split()))
