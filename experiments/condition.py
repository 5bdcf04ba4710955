"""A condition on results, such as `val/bits_per_byte > 1.02 * baseline`, for a check that ends with an exit code.

A condition compares metrics with numbers and with `baseline`, the same metric of the group that the others are compared
with. It is parsed and worked out node by node; nothing in it can be called, and nothing but numbers is reached.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from experiments.settings import did_you_mean

BASELINE = "baseline"
WORDS = ("and", "or", "not", BASELINE)
LONGEST = 500  # characters; a condition that nests deeper than Python's own parser likes is no condition
NAME = re.compile(r"""(?<![\w.])[A-Za-z_][\w./]*|"[^"]*"|'[^']*'""")
ARITHMETIC: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: Mapping[type, Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Args:
        text: as it was written.
        metrics: every metric that it names.
    """

    text: str
    metrics: tuple[str, ...]
    needs_baseline: bool
    _tree: ast.expr

    def holds(self, values: Mapping[str, float], baseline: Mapping[str, float]) -> bool:
        """Whether it holds.

        Args:
            values: metric -> number, of what is checked; every metric of the condition is there.
            baseline: the same of what is compared with; read only where the condition says `baseline`.
        Raises:
            ValueError: a division by zero.
        """
        try:
            return bool(_worked_out(self._tree, values, baseline, ""))
        except ZeroDivisionError as error:
            raise ValueError(f"the condition {self.text!r} divides by zero") from error


def parse(text: str, known: Iterable[str]) -> Condition:
    """The condition that a text writes down.

    Args:
        text: comparisons of metrics with numbers and `baseline`, with + - * / ( ) and or not; a metric whose name is
            not made of letters, digits, "_", "." and "/" stands in quotation marks.
        known: the metrics that there are.
    Raises:
        ValueError: a metric that is not there (with the nearest that is), anything but arithmetic, no comparison.

    >>> parse("val/loss > 1.02 * baseline", ["val/loss"]).holds({"val/loss": 2.1}, {"val/loss": 2.0})
    True
    """
    known = list(known)
    if len(text) > LONGEST:
        raise ValueError(f"a condition has at most {LONGEST} characters, this one has {len(text)}")
    named = NAME.sub(lambda found: _as_literal(found.group(), known, text), text)
    try:
        tree = ast.parse(named.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the condition {text!r} is none: {error.msg}") from error
    if not _is_truth(tree):
        raise ValueError(f"the condition {text!r} compares nothing; write such as 'val/loss > 1.02 * baseline'")
    _refuse_strangers(tree, text)
    return Condition(text, tuple(_metrics(tree)), any(isinstance(node, ast.Name) for node in ast.walk(tree)), tree)


def _as_literal(word: str, known: list[str], text: str) -> str:
    """A metric as a string that Python can parse, whatever is in its name; words of the language stay."""
    name = word.strip("\"'")
    if name == word and name in WORDS:
        return word
    if name not in known:
        raise ValueError(f"the condition {text!r} names {name!r}, which no run measured{did_you_mean(name, known)}")
    return repr(name)


def _metrics(tree: ast.AST) -> list[str]:
    """The metrics inside a node, each once."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return list(dict.fromkeys(value for value in constants if isinstance(value, str)))


def _is_truth(node: ast.expr) -> bool:
    """Whether a node says yes or no: comparisons, and what joins them."""
    if isinstance(node, ast.BoolOp):
        return all(map(_is_truth, node.values))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _is_truth(node.operand)
    return isinstance(node, ast.Compare)


def _refuse_strangers(tree: ast.expr, text: str) -> None:
    """Refuse what is neither arithmetic nor a comparison, and a `baseline` of which nobody knows the metric."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            _refuse_unclear_baseline(node, text)
        elif isinstance(node, ast.expr) and not _is_number(node):
            raise ValueError(f"the condition {text!r} may hold numbers, metrics, comparisons and + - * / only")


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.BinOp):
        return type(node.op) in ARITHMETIC
    if isinstance(node, ast.Name):
        return node.id == BASELINE
    return isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Invert))


def _refuse_unclear_baseline(node: ast.Compare, text: str) -> None:
    inside = list(ast.walk(node))
    metrics = set(_metrics(node))
    truths = [each for each in inside if isinstance(each, ast.BoolOp | ast.Compare | ast.Not)]
    if any(type(each) not in COMPARISONS for each in node.ops) or len(truths) > 1:
        raise ValueError(f"the condition {text!r} may compare numbers by < <= > >= == != only")
    if any(isinstance(each, ast.Name) for each in inside) and len(metrics) != 1:
        raise ValueError(f"the condition {text!r} says baseline beside {len(metrics)} metrics; it needs exactly one")


def _worked_out(node: Any, values: Mapping[str, float], baseline: Mapping[str, float], metric: str) -> float | bool:
    """The value of a node; `metric` is the one that `baseline` speaks of, inside a comparison."""

    def inner(each: Any, about: str = metric) -> float | bool:
        return _worked_out(each, values, baseline, about)

    match node:
        case ast.Constant():
            return values[node.value] if isinstance(node.value, str) else float(cast(float, node.value))
        case ast.Name():
            return baseline[metric]
        case ast.BinOp():
            return ARITHMETIC[type(node.op)](inner(node.left), inner(node.right))
        case ast.UnaryOp(op=ast.Not()):
            return not inner(node.operand)
        case ast.UnaryOp():
            return -inner(node.operand) if isinstance(node.op, ast.USub) else +inner(node.operand)
        case ast.BoolOp():
            return (all if isinstance(node.op, ast.And) else any)(inner(each) for each in node.values)
    about = next(iter(_metrics(node)), "")
    sides = [inner(each, about) for each in (node.left, *node.comparators)]
    return all(COMPARISONS[type(op)](a, b) for op, a, b in zip(node.ops, sides, sides[1:], strict=False))
