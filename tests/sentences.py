"""A small language with a known grammar, for the tests that train on text."""

import random
from pathlib import Path
from typing import Any

from unrolled.text.data import Tokenizer
from unrolled.text.run import TextRun, write_data
from unrolled.training import Settings

SUBJECTS = ("我", "你", "他", "她", "老师", "学生", "妈妈", "爸爸")
TIMES = ("今天", "明天", "昨天", "早上", "晚上")
# A verb decides its objects, and an object its measure word: what a blank can be told from.
VERBS = {
    "买": (("部", "手机"), ("本", "书"), ("台", "电脑")),
    "看": (("本", "书"), ("场", "电影")),
    "吃": (("个", "苹果"), ("碗", "米饭")),
    "喝": (("杯", "水"), ("杯", "茶"), ("杯", "咖啡")),
}


def sentence(source: random.Random) -> str:
    """A sentence of the grammar, in full-width punctuation."""
    who, when = source.choice(SUBJECTS), source.choice(TIMES)
    verb = source.choice(sorted(VERBS))
    measure, thing = source.choice(VERBS[verb])
    match source.randrange(4):
        case 0:
            return f"{who}{when}{verb}了一{measure}{thing}。"
        case 1:
            return f"{when}，{who}想{verb}{thing}。"
        case 2:
            return f"{who}{when}要{verb}一{measure}{thing}吗？"
        case _:
            return f"{who}喜欢{verb}{thing}，不喜欢{when}{verb}。"


def corpus(count: int, *, seed: int = 0) -> list[str]:
    """``count`` different sentences of the grammar."""
    source = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[sentence(source)] = None
    return list(found)


def write_corpus(path: Path, count: int = 300, *, seed: int = 0) -> Path:
    """A file of ``count`` sentences, one a line."""
    path.write_text("\n".join(corpus(count, seed=seed)) + "\n", encoding="utf-8")
    return path


def make_run(
    directory: Path,
    *,
    kind: str = "cloze",
    count: int = 200,
    model: dict[str, Any] | None = None,
    passage: int | None = None,
    **settings: Any,
) -> TextRun:
    """A small run over the grammar, not yet trained; with ``passage`` on the text as one."""
    directory.mkdir(parents=True)
    tokenizer = Tokenizer("char")
    _, vocabulary = write_data(directory, corpus(count), tokenizer, longest=50, passage=passage)
    sizes = {"vocabulary_size": len(vocabulary), "hidden_size": 9, "embedding_size": 6}
    chosen = {
        "seed": 0,
        "steps": 8,
        "epochs": None,
        "minutes": None,
        "batch_steps": 300,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "schedule": "linear",
        "weight_decay": 0.0,
        "clip": 1.0,
        "evaluations": 2,
        "patience": 3,
        "threads": 1,
    }
    if passage is not None:
        chosen |= {"bptt": "truncated", "k1": 7, "k2": 7, "batch_size": 4}
    return TextRun.create(
        directory,
        kind=kind,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        model_config=sizes | {"cell": "gru", "dropout": 0.2} | (model or {}),
        settings=Settings(**(chosen | settings)),
        command={"kind": kind, "data": ["-"], "longest": 50, "passage": passage},
    )
