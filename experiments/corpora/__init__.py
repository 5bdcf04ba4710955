"""Text to train on: files, folders, pairs of lines, and two corpora that are always there.

Everything is split into training and held-out *text*, before any tokenizer looks at it: bits per byte needs the
bytes, and token ids of one tokenizer cannot be compared with those of another.
"""

import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

SUBTITLES = {".srt": "srt", ".vtt": "vtt", ".ass": "ass"}
EXTENSIONS = (".txt", *SUBTITLES)
BUILT_IN = ("lanterns", "pydoc")

AnyPath = str | os.PathLike[str]
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Running text, cut in two: everything before the cut is for training."""

    train: str
    held_out: str

    @property
    def train_bytes(self) -> int:
        """Length of the training text in UTF-8 bytes."""
        return len(self.train.encode())

    @property
    def held_out_bytes(self) -> int:
        """Length of the held-out text in UTF-8 bytes."""
        return len(self.held_out.encode())


@dataclass(frozen=True, kw_only=True)
class PairCorpus:
    """Lines and their translations; held-out pairs are taken at even distances, so that both halves look alike."""

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...]


def read_corpus(source: str | Sequence[str], *, train_share: float) -> Corpus:
    """The text that `source` names, split at the line end nearest to `train_share` of its characters.

    Args:
        source: "lanterns", "pydoc", or one or several files and folders.
        train_share: share of the characters before the cut, above 0 and below 1.
    Raises:
        ValueError: text that cannot be read, or too little of it to have two parts.
    """
    return split_text("\n".join(_texts(source)), train_share=train_share)


def split_text(text: str, *, train_share: float) -> Corpus:
    """`text` in two parts that join to it again, cut after a line end where there is one near."""
    wanted = round(len(text) * train_share)
    line_end = text.find("\n", wanted)
    cut = line_end + 1 if 0 <= line_end < len(text) - 1 else wanted
    if not 0 < cut < len(text):
        raise ValueError(f"the text ({len(text)} characters) is too short to hold a part of it out; use a longer one")
    return Corpus(train=text[:cut], held_out=text[cut:])


def lanterns() -> list[str]:
    """Dialogue and songs of the built-in subtitle corpus, one text per episode."""
    folder = resources.files("experiments.corpora") / "lanterns"
    with resources.as_file(folder) as path:
        return read_texts(path)


def pydoc() -> str:
    """The documentation of Python's own topics, in the order of their names; it ships inside every CPython."""
    from pydoc_data.topics import topics  # 0.5 MB of text that only this function needs

    return "\n".join(topics[name] for name in sorted(topics))


def read_texts(paths: AnyPath | Sequence[AnyPath]) -> list[str]:
    """The text of every file, subtitles without timing and markup; a folder counts for all its texts, sorted.

    Args:
        paths: a file or folder, or several. Read are .txt and, through a subtitle library, .srt, .vtt and .ass;
            files of other kinds are refused when named, and passed over inside a folder.
    Raises:
        ValueError: a path that is missing, unreadable, empty, of an unknown kind or not UTF-8.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [read_text(file) for path in several for file in _files_of(Path(path))]


def read_text(file: AnyPath) -> str:
    """The text of one file; see `read_texts`."""
    file = Path(file)
    if file.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"{file} has the unknown extension {file.suffix!r}; known: {', '.join(EXTENSIONS)}")
    text = _decoded(file)
    if file.suffix.lower() in SUBTITLES:
        text = _spoken(text, format_name=SUBTITLES[file.suffix.lower()])
    if not text.strip():
        raise ValueError(f"{file} is empty; a text needs at least one word")
    return text


def read_pairs(files: Sequence[AnyPath]) -> list[Pair]:
    """Lines and their translations, without pairs of which one side is blank.

    Args:
        files: one .tsv file (source, tab, target; further columns are left out), or two text files whose lines
            correspond.
    Raises:
        ValueError: a file that cannot be read, a line without a tab, two files of different length, no pair at all.
    """
    paths = [Path(file) for file in files]
    pairs = _aligned(*paths) if len(paths) == 2 else list(_tab_separated(paths[0]))
    pairs = [(source.strip(), target.strip()) for source, target in pairs if source.strip() and target.strip()]
    if not pairs:
        raise ValueError(f"{paths[0]} is empty; it needs at least one pair of lines")
    return pairs


def split_pairs(pairs: Sequence[Pair], *, train_share: float) -> PairCorpus:
    """The pairs in two parts; every 1 / (1 - train_share)-th is held out, whatever the order of the file."""
    count, held = len(pairs), round(len(pairs) * (1 - train_share))
    is_held_out = [(i + 1) * held // count > i * held // count for i in range(count)]
    train = tuple(pair for pair, out in zip(pairs, is_held_out, strict=True) if not out)
    held_out = tuple(pair for pair, out in zip(pairs, is_held_out, strict=True) if out)
    if not train or not held_out:
        raise ValueError(
            f"{len(pairs)} pairs cannot be split at data.train_share ({train_share}); use more pairs or another share"
        )
    return PairCorpus(train=train, held_out=held_out)


def _texts(source: str | Sequence[str]) -> list[str]:
    if source == "lanterns":
        return lanterns()
    return [pydoc()] if source == "pydoc" else read_texts(source)


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        names = " or ".join(repr(name) for name in BUILT_IN)
        raise ValueError(f"{path} does not exist; name a file, a folder, or the built-in {names}")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
    if not files:
        raise ValueError(f"{path} holds no text; looked for {', '.join(EXTENSIONS)}")
    return files


def _decoded(file: Path) -> str:
    if not file.exists():
        raise ValueError(f"{file} does not exist")
    try:
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it, for example with iconv") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None


def _spoken(text: str, *, format_name: str) -> str:
    """What is said and sung in a subtitle file, a line per line on the screen."""
    import pysubs2

    if format_name == "vtt":
        text = re.sub(r"^(NOTE|STYLE|REGION)\b.*?(\n\n|\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    events = pysubs2.SSAFile.from_string(text, format_=format_name)
    said = [each.plaintext.strip() for each in events if not each.is_comment and not each.is_drawing]
    lines = [html.unescape(each) if format_name != "ass" else each for each in said if each]
    return "\n".join(lines)


def _tab_separated(file: Path) -> Iterator[Pair]:
    for number, line in enumerate(_decoded(file).splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 and line.strip():
            raise ValueError(f"{file}, line {number}: no tab; a line is source, tab, target")
        if len(columns) >= 2:
            yield columns[0], columns[1]


def _aligned(source: Path, target: Path) -> list[Pair]:
    sources, targets = _decoded(source).splitlines(), _decoded(target).splitlines()
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines and {target} has {len(targets)}; aligned files have equally many"
        )
    return list(zip(sources, targets, strict=True))
