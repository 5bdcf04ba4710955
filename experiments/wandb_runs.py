"""Runs that Weights & Biases keeps, read back: offline directories on disk, and runs on a server.

`experiments/tracking.py` writes them and this file reads them: two doors to wandb, one in each direction. An offline
run is a file of protobuf records in the framing of a LevelDB log; wandb has no public reader for it.
"""

import itertools
import json
import math
import os
import struct
import time
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.record import Standing
from experiments.run import AXIS_NAMES, Logged, Run, flat
from experiments.runs import Found

STALE_SECONDS = 300  # ours: W&B writes down how the machine is every quarter of a minute while a run is on
BLOCK_BYTES = 32768
FILE_HEADER = struct.Struct("<4sHB")  # ":W&B", a magic number, a version
PIECE_HEADER = struct.Struct("<IHB")  # checksum, length, kind
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
IDENTITY = (b":W&B", 0xBEE1)
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
FALLBACKS = {"step": "_step", "seconds": "_runtime"}
"""What says when in a run that does not log it itself: W&B's own count of rows and its clock."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What one offline file holds: a run, or as much of it as was made before a stop.

    Args:
        about: W&B's own record of the run.
        config: its settings, with those that were added later.
        exit_code: None where the file has no end.
        rows: its metrics in the words of a record.
    """

    file: Path
    about: Any
    config: Mapping[str, Any]
    exit_code: int | None
    rows: list[dict[str, float]]


def offline_runs(files: Sequence[Path]) -> Found:
    """Every offline run in these files; the sittings of a resumed run, which share its id, are one run.

    Raises:
        ValueError: the only file cannot be read.
    """
    read: dict[tuple[Path, str], list[Sitting]] = {}
    left_out: list[str] = []
    for file in files:
        try:
            found = sitting(file)
        except ValueError as error:
            if len(files) == 1:
                raise
            left_out.append(str(error))
        else:
            read.setdefault((file.parents[1], found.about.run_id), []).append(found)
    return Found(tuple(run_of(sittings) for sittings in read.values()), tuple(left_out))


def sitting(file: Path) -> Sitting:
    """What lies in one `run-ID.wandb` file, up to its last whole record.

    Raises:
        ValueError: it is no such file, is damaged, or holds no run yet.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are made when it is imported
    about: Any = None
    exit_code: int | None = None
    config: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for content in records(file):
        record = messages.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(_values(record.history.item))
        elif kind == "run":
            about = record.run
            config |= _values(about.config.update)
        elif kind == "config":
            config |= _values(record.config.update)
        elif kind == "exit":
            exit_code = record.exit.exit_code
    if about is None:
        raise ValueError(f"{file} holds no run yet: W&B had not written its beginning")
    return Sitting(file=file, about=about, config=config, exit_code=exit_code, rows=list(metrics_of(rows)))


def run_of(sittings: Sequence[Sitting]) -> Run:
    """The sittings of one run as one: each counts up to where the next took over."""
    last, about = sittings[-1], sittings[-1].about
    rows = itertools.chain.from_iterable(each.rows for each in sittings)
    written = last.file.stat().st_mtime
    started = sittings[0].about.start_time
    return Run(
        name=about.display_name or about.run_id,
        id=about.run_id,
        where=str(last.file.parent),
        state=_state(last.exit_code, written),
        began=started.seconds + started.nanos / 1e9,
        last_written=written,
        config=flat(last.config),
        logged=Logged.of(without_repeats(rows)),
    )


def records(file: Path) -> Iterator[bytes]:
    """The records of an offline file in order; one that a crash tore, and all that follows, is left out.

    Source: the log format of LevelDB (doc/log_format.md) with zlib's CRC-32 and W&B's header of seven bytes.

    Raises:
        ValueError: the file is no offline run, or its content does not match its checksums.
    """
    data = file.read_bytes()
    if len(data) < FILE_HEADER.size or FILE_HEADER.unpack_from(data)[:2] != IDENTITY:
        raise ValueError(f"{file} is no offline run of W&B")
    parts: list[bytes] = []
    for kind, piece in _pieces(data, file):
        parts = [piece] if kind in (FULL, FIRST) else [*parts, piece]
        if kind in (FULL, LAST):
            yield b"".join(parts)


def _pieces(data: bytes, file: Path) -> Iterator[tuple[int, bytes]]:
    """Kind and content of every piece; a record is cut where a block ends."""
    at = FILE_HEADER.size
    while at + PIECE_HEADER.size <= len(data):
        left_in_block = BLOCK_BYTES - at % BLOCK_BYTES
        if left_in_block < PIECE_HEADER.size:
            at += left_in_block
            continue
        checksum, length, kind = PIECE_HEADER.unpack_from(data, at)
        begin, end = at + PIECE_HEADER.size, at + PIECE_HEADER.size + length
        if end > len(data) or not kind:
            return
        if zlib.crc32(data[begin - 1 : end]) != checksum:
            raise ValueError(f"{file} is damaged at byte {at}: its checksum does not match")
        yield kind, data[begin:end]
        at = end


def metrics_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, float]]:
    """Rows of a W&B history in the words of a record: numbers only, W&B's own fields where nothing else says when."""
    for row in rows:
        numbers = {name: _number(value) for name, value in row.items() if not _is_dressed(name, row)}
        kept = {name: value for name, value in numbers.items() if value is not None}
        when = {ours: kept[theirs] for ours, theirs in FALLBACKS.items() if theirs in kept}
        yield {**when, **{name: value for name, value in kept.items() if not name.startswith("_")}}


def without_repeats(rows: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Rows of one run in which a resumed run took over from an earlier checkpoint: what it measured again counts once.

    A run that logs no tokens is not one of ours; its steps may go back for reasons of its own.
    """
    kept: list[dict[str, float]] = []
    for row in rows:
        if kept and "tokens" in row and _is_again(kept, row):
            kept = [each for each in kept if each.get("tokens", 0) < row["tokens"]]
        kept.append(row)
    return kept


def is_server_path(text: str) -> bool:
    """Whether a text could be a W&B path: ENTITY/PROJECT, ENTITY/PROJECT/ID or ENTITY/PROJECT?NAME=VALUE."""
    path = text.partition("?")[0].strip("/").split("/")
    return len(path) in (2, 3) and all(path) and not text.startswith((".", "/", "~"))


def server_runs(text: str) -> Found:
    """The runs at a W&B path, every row of each.

    Args:
        text: ENTITY/PROJECT/ID; or ENTITY/PROJECT for all runs, after "?" only those of a group (`group=NAME`), with a
            state, tag or setting (`state=finished&tags=red&config.optim.lr=0.001`).
    Raises:
        ValueError: the server does not answer, or has no such run.
    """
    import wandb

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    path, _, query = text.partition("?")
    try:
        api = wandb.Api(timeout=30)
        if path.count("/") == 2:
            found = [api.run(path)]
        else:
            found = api.runs(path, filters=filters(query), order="+created_at", lazy=False)
        runs = tuple(_server_run(each) for each in found)
    except Exception as error:  # wandb raises its own errors, those of its process and those of the network
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{text} cannot be read from W&B: {reason}") from error
    if not runs:
        raise ValueError(f"{text} names no run on W&B")
    return Found(runs)


def filters(query: str) -> dict[str, Any]:
    """What W&B is asked for, from the text after "?".

    >>> filters("group=warm&config.optim.lr=0.001")
    {'group': 'warm', 'config.optim.lr': 0.001}
    """
    return {name: _typed(value) for name, value in urllib.parse.parse_qsl(query, strict_parsing=bool(query))}


def _server_run(run: Any) -> Run:
    began = datetime.fromisoformat(run.created_at.replace("Z", "+00:00")).timestamp()
    rows = [dict(_unnested(row)) for row in run.scan_history()]
    written = max((row["_timestamp"] for row in rows if "_timestamp" in row), default=began)
    state: dict[str, Standing] = {"finished": "finished", "running": "running", "crashed": "killed"}
    return Run(
        name=run.name or run.id,
        id=run.id,
        where="/".join(run.path),
        state=state.get(run.state, "failed"),
        began=began,
        last_written=written,
        config=flat(run.config),
        logged=Logged.of(without_repeats(metrics_of(rows))),
    )


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _is_again(kept: Sequence[Mapping[str, float]], row: Mapping[str, float]) -> bool:
    """Whether a row comes before the last one, or measures again what was measured at the same place."""
    if row["tokens"] < kept[-1].get("tokens", 0):
        return True
    at_once = itertools.takewhile(lambda each: each.get("tokens") == row["tokens"], reversed(kept))
    return any(row.keys() & each.keys() - AXIS_NAMES for each in at_once)


def _unnested(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a row as an offline file names them."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _unnested(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_dressed(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a field belongs to a table or a picture, whose fields W&B writes beside its "_type"."""
    parents = itertools.accumulate(name.split(".")[:-1], "{}.{}".format)
    return any(f"{parent}._type" in row for parent in parents)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return NOT_FINITE.get(value)
    return float(value) if isinstance(value, int | float) else None


def _state(exit_code: int | None, written: float) -> Standing:
    """An offline file says only how a run ended; one without an end was killed, unless it was written to lately."""
    if exit_code is None:
        return "running" if time.time() - written < STALE_SECONDS else "killed"
    return "failed" if exit_code else "finished"


def _typed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
