"""Scores of a judge, such as a vision-language model, that somebody else asks: questions out, scores in.

The two questions and the arithmetic are those of VIEScore (Ku et al. 2024), in our words: semantic
consistency and perceptual quality from 0 to 10, each the least of its parts, and their geometric mean.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.scoring.report import Report, ReportColumn, incomplete
from intarsia.errors import UserError
from intarsia.files import sha256_bytes, sha256_file

HIGHEST = 10.0
_PARTS = 2  # scores that each question asks for
QUESTIONS = {
    "semantic_consistency": (
        ("image", "exemplar", "result"),
        "The first picture is a scene, the second an object, the third the scene after the object was put "
        "into it. Give two whole numbers from 0 to 10: how far the object in the third picture is the very "
        "object of the second (0: another object, 10: the same in every detail), and how far the rest of the "
        "scene is as it was (0: another scene, 10: nothing else has changed). If the object is missing, both "
        'are 0. Answer with JSON only: {"scores": [identity, rest], "reason": "one sentence"}.',
    ),
    "perceptual_quality": (
        ("result",),
        "The picture was edited by a program. Give two whole numbers from 0 to 10: how natural it looks as a "
        "photograph (0: light, shadow, size or perspective are wrong, 10: nothing looks wrong), and how free "
        "it is of faults (0: seams, blur, distorted or doubled parts all over, 10: none). Answer with JSON "
        'only: {"scores": [natural, faultless], "reason": "one sentence"}.',
    ),
}
_TITLES = {"semantic_consistency": "SC", "perceptual_quality": "PQ"}


def prompt_hash(question: str) -> str:
    """12 hexadecimal digits of a question's text and of the pictures that it is about."""
    kinds, text = QUESTIONS[question]
    return sha256_bytes("\n".join([*kinds, text]).encode())[:12]


def question_lines(report: Report) -> Iterator[str]:
    """A line of JSON for each case and question: case, question, prompt, its hash, the pictures in order, and
    a hash of their contents.

    Raises:
        UserError: if a case lacks one of the pictures.
    """
    for key in report.rows:
        for question, (_, prompt) in QUESTIONS.items():
            pictures = _pictures(report, key, question)
            content = {"case": key, "question": question, "prompt": prompt}
            hashes = {"prompt_hash": prompt_hash(question), "pictures_hash": _hash_of(pictures)}
            yield json.dumps(content | hashes | {"pictures": [str(path) for path in pictures]})


def read_scores(path: Path, report: Report) -> dict[str, dict[str, float]]:
    """Case -> question -> score, the least of its parts, from lines of JSON.

    A line has `case`, `question`, `prompt_hash`, `pictures_hash` and `scores`, two numbers from 0 to 10.

    Raises:
        UserError: for a line that is not so, that is of another prompt, of other pictures, of an unknown
            case, or appears twice; if a case lacks one of the pictures.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}") from None
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        key, question, hashed, score = _score(line, where)
        if key not in report.rows:
            raise UserError(f"{where}: {report.name} has no case {key}; give scores of the same results")
        if hashed != _hash_of(_pictures(report, key, question)):
            raise UserError(
                f"{where}: these scores are about other pictures than those of case {key} of {report.name}; "
                "export its questions and ask again"
            )
        if question in found.setdefault(key, {}):
            raise UserError(f"{where}: {question} of case {key} appears twice; keep one")
        found[key][question] = score
    return found


def judged(report: Report, scores: Mapping[str, Mapping[str, float]], judge: str) -> Report:
    """A report of the scores: SC, PQ and their geometric mean, of the cases that have both.

    Args:
        report: report of the results that were judged.
        scores: case -> question -> score.
        judge: name of the judge, which the recipes hold.

    Raises:
        UserError: if no case has both scores.
    """
    rows = {}
    for key in report.rows:
        own = scores.get(key, {})
        if own.keys() >= QUESTIONS.keys():
            both = {question: own[question] for question in QUESTIONS}
            rows[key] = {**both, "overall": math.sqrt(math.prod(both.values()))}
    if not rows:
        raise UserError("no case has scores for both questions; give a line for each question of each case")
    recipes = {
        name: f"viescore-{title.lower()}/{judge}/v1 prompt {prompt_hash(name)}"
        for name, title in _TITLES.items()
    }
    columns = [
        ReportColumn(name, f"{title} (0 to 10)", "up", recipes[name]) for name, title in _TITLES.items()
    ]
    both_recipes = " and ".join(recipes.values())
    overall = ReportColumn("overall", "√(SC · PQ)", "up", f"geometric mean of {both_recipes}")
    return replace(
        report,
        bench=f"{report.bench}, judged",
        columns=[overall, *columns],
        rows=rows,
        figures=(),
        remarks=incomplete(len(rows), report.expected),
    )


def _pictures(report: Report, key: str, question: str) -> list[Path]:
    """The pictures that a question about a case shows, in order."""
    files = report.files.get(key, {})
    kinds, _ = QUESTIONS[question]
    if none := [kind for kind in kinds if kind not in files]:
        raise UserError(
            f"{report.bench} has no {none[0]} of case {key}, which {question} asks about; judge results of a "
            f"bench with {', '.join(kinds)}"
        )
    if lost := [kind for kind in kinds if not Path(files[kind]).is_file()]:
        raise UserError(
            f"case {key} has no {lost[0]} where it was when it was scored; score the results again"
        )
    return [Path(files[kind]).resolve() for kind in kinds]


def _hash_of(pictures: Sequence[Path]) -> str:
    """12 hexadecimal digits of the contents of files, in order."""
    return sha256_bytes("".join(map(sha256_file, pictures)).encode())[:12]


def _score(line: str, where: str) -> tuple[str, str, str, float]:
    """Case, question, hash of the pictures, and the least of the two scores."""
    copied = ("case", "question", "prompt_hash", "pictures_hash")
    try:
        content: Any = json.loads(line)
        key, question, prompt, pictures = (str(content[name]) for name in copied)
        given = content["scores"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} has no {', '.join(copied)} and scores ({error!r}); copy the first four from the "
            "exported line"
        ) from None
    if question not in QUESTIONS:
        raise UserError(f"{where}: {question!r} is not one of {', '.join(QUESTIONS)}")
    if prompt != prompt_hash(question):
        raise UserError(f"{where}: the prompt {prompt} is not that of this version; export and ask again")
    numbers = isinstance(given, list) and all(type(part) in (int, float) for part in given)
    if not numbers or len(given) != _PARTS:
        raise UserError(f"{where}: scores are {json.dumps(given)}; give a list of two numbers, as asked")
    if not all(0 <= part <= HIGHEST for part in given):
        raise UserError(f"{where}: {given} is outside of 0 to 10; correct it")
    return key, question, pictures, float(min(given))
