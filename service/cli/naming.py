"""How a command names samples. Subjects are people: they are read from files, never from the command line, which other
users of the machine and the shell's history see."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

FIELDS = ("key", "index", "sha256", "file_sha256", "subject")
STDIN = Path("-")

Selector = dict[str, str | int]


def selectors(
    *,
    keys: Iterable[str],
    indices: Iterable[int],
    sha256: Iterable[str],
    file_sha256: Iterable[str],
    subjects: Path | None,
    source: Path | None,
) -> list[Selector]:
    """Every sample that the options name, in their order. Raises typer.BadParameter where there is none."""
    if subjects == STDIN and source == STDIN:
        raise typer.BadParameter("only one of --subject-file and --from can be read from standard input")
    found: list[Selector] = [{"key": key} for key in keys]
    found += [{"index": index} for index in indices]
    found += [{"sha256": digest} for digest in sha256]
    found += [{"file_sha256": digest} for digest in file_sha256]
    if subjects is not None:
        found += [{"subject": subject} for subject in lines(subjects)]
    if source is not None:
        found += _from_file(source)
    if not found:
        raise typer.BadParameter(
            "name samples: --key, --index, --sha256, --file-sha256, --subject-file FILE or --from FILE"
        )
    return found


def lines(file: Path) -> list[str]:
    """The lines of a file that hold something, blanks around them stripped. Raises typer.BadParameter."""
    found = [line.strip() for line in read(file).splitlines() if line.strip()]
    if not found:
        raise typer.BadParameter(f"{file} holds no line")
    return found


def read(file: Path) -> str:
    """A UTF-8 text; ``-`` is standard input. Raises typer.BadParameter."""
    try:
        content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no UTF-8 text") from None
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; ``-`` is standard input. Raises typer.BadParameter."""
    try:
        found = json.loads(read(file))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} holds no JSON object")
    return found


def _from_file(file: Path) -> list[Selector]:
    text = read(file)
    lined = file.suffix.lower() in (".jsonl", ".ndjson") or text.lstrip().startswith("{")
    found = list(_from_json_lines(file, text) if lined else _from_csv(file, text))
    if not found:
        raise typer.BadParameter(f"{file} names no sample")
    return found


def _from_json_lines(file: Path, text: str) -> Iterator[Selector]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            selector = json.loads(line)
        except (ValueError, RecursionError):
            raise typer.BadParameter(
                f'{file}, line {number}: no JSON object such as {{"key": "train/00017"}}'
            ) from None
        if not isinstance(selector, dict):
            raise typer.BadParameter(f"{file}, line {number}: no JSON object")
        yield _one(file, number, selector)


def _from_csv(file: Path, text: str) -> Iterator[Selector]:
    reader = csv.reader(text.splitlines())
    try:
        header = [title.strip() for title in next(reader, [])]
        if not header or not set(header) <= set(FIELDS) or len(set(header)) < len(header):
            raise typer.BadParameter(
                f"{file}: the first line of a CSV file names its columns, out of {', '.join(FIELDS)}; "
                "JSON lines are the other form"
            )
        for row in reader:
            if len(row) > len(header):
                raise typer.BadParameter(f"{file}, line {reader.line_num}: more cells than columns")
            given: dict[str, Any] = {
                name: part.strip() for name, part in zip(header, row, strict=False) if part.strip()
            }
            if not given:
                continue
            if given.get("index", "").isdecimal():
                given["index"] = int(given["index"])
            yield _one(file, reader.line_num, given)
    except csv.Error as error:
        raise typer.BadParameter(f"{file}, line {reader.line_num}: {error}") from None


def _one(file: Path, number: int, selector: dict[str, Any]) -> Selector:
    # The value is left out of the message: it may name a person.
    if len(selector) != 1 or not set(selector) <= set(FIELDS):
        raise typer.BadParameter(f"{file}, line {number}: name the sample by exactly one of {', '.join(FIELDS)}")
    if "index" in selector and type(selector["index"]) is not int:
        raise typer.BadParameter(f"{file}, line {number}: an index is a whole number")
    return selector
