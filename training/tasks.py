"""HellaSwag and LAMBADA from local files, scored by lm-eval (https://github.com/EleutherAI/lm-evaluation-harness).

An exit's sub-model is a standard Hugging Face causal LM, so lm-eval's own interface to those (`HFLM`) runs it. The
tasks are lm-eval's `hellaswag` and `lambada_openai`, zero-shot, with the documents from files in place of the hub:

- `hellaswag`: six lines a task, the context, the index of the right ending, and four endings, as in
  klosax/hellaswag_text_data, plain or `.bz2`. lm-eval capitalises the context's second sentence, which this form has
  as it stands in the data set, so figures differ a little from those that lm-eval gives on the hub's files.
- `lambada`: JSON lines with a `text`, whose last word is to be predicted (OpenAI's form of the test).
"""

import bz2
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from family.files import sha256_file
from training.errors import DataError
from training.modeling import FamilyForCausalLM
from training.quiet import quiet
from training.ranks import Reading

SPLIT = "test"
ENDINGS = 4
BATCH = 16
"""Requests at a time."""
TASKS: dict[str, dict[str, object]] = {
    "hellaswag": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "acc"}],
    },
}
"""What is particular to each task, in the words of lm-eval's task files."""


@dataclass(frozen=True)
class TaskScore:
    """One exit at one rank on one task."""

    exit: int
    rank: int | None
    accuracy: float
    """Of HellaSwag: the share of contexts whose right ending has the highest probability."""
    accuracy_norm: float | None
    """The same with log probabilities divided by the endings' lengths; None where there are no choices."""


@dataclass(frozen=True)
class TaskScores:
    """All exits on one task."""

    task: str
    file: str
    sha256: str
    documents: int
    exits: tuple[TaskScore, ...]


def score_task(
    family: FamilyForCausalLM, tokenizer: Any, readings: tuple[Reading, ...], name: str, path: Path, limit: int | None
) -> TaskScores:
    """Accuracy of every reading on a task of `TASKS`, or on its first `limit` documents.

    Raises:
        DataError: the file is missing or not in the task's form.
        ModuleNotFoundError: lm-eval is not installed.
    """
    documents = read_documents(name, path)[:limit]
    task = _task(name, documents)
    exits = tuple(_score(family, tokenizer, reading, name, task) for reading in readings)
    return TaskScores(name, path.name, sha256_file(path), len(documents), exits)


def read_documents(name: str, path: Path) -> list[dict[str, object]]:
    """The documents of a task's file, with the fields that `TASKS` names. Raises `DataError` that names the line."""
    try:
        data = path.read_bytes()
        text = (bz2.decompress(data) if path.suffix == ".bz2" else data).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None
    lines = text.rstrip("\n").split("\n")
    documents = list((_hellaswag if name == "hellaswag" else _lambada)(lines, path))
    if not documents:
        raise DataError(f"{path}: holds no document of {name}")
    return documents


def _hellaswag(lines: list[str], path: Path) -> Iterator[dict[str, object]]:
    size = 2 + ENDINGS
    if len(lines) % size:
        raise DataError(f"{path}: {len(lines)} lines; expected {size} for each task: context, index, {ENDINGS} endings")
    for start in range(0, len(lines), size):
        query, gold, *choices = lines[start : start + size]
        if gold not in map(str, range(ENDINGS)):
            raise DataError(f"{path}, line {start + 2}: expected the right ending's index, 0..{ENDINGS - 1}: {gold!r}")
        yield {"query": query, "gold": int(gold), "choices": choices}


def _lambada(lines: list[str], path: Path) -> Iterator[dict[str, object]]:
    for number, line in enumerate(lines, 1):
        try:
            text = json.loads(line)["text"]
            words = text.split(" ")
        except (ValueError, KeyError, TypeError, AttributeError):
            words = []
        if len(words) < 2:
            raise DataError(f'{path}, line {number}: expected an object such as {{"text": "several words"}}')
        yield {"text": text}


def _task(name: str, documents: list[dict[str, object]]) -> Any:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    def local(**_: object) -> dict[str, object]:
        return {SPLIT: datasets.Dataset.from_list(documents)}

    with quiet():
        return ConfigurableTask(
            config={"task": name, "custom_dataset": local, "test_split": SPLIT, "num_fewshot": 0, **TASKS[name]}
        )


def _score(family: FamilyForCausalLM, tokenizer: Any, reading: Reading, name: str, task: Any) -> TaskScore:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    g, rank = reading
    cut = None if rank == family.config.exit(g).rank else rank
    with quiet():
        model = HFLM(
            pretrained=family.submodel(g, cut), tokenizer=tokenizer, backend="causal", batch_size=BATCH, truncation=True
        )
        found: Any = evaluate(model, {"tasks": {name: task}}, bootstrap_iters=0, log_samples=False)
    figures = found["results"][name]
    return TaskScore(g, rank, float(figures["acc,none"]), figures.get("acc_norm,none"))
