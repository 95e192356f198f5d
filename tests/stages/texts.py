"""Random texts of two or more stages, and stage tables of them; later stages are closer to the references."""

import numpy as np

from dial.stages.stage import Stage
from dial.stages.table import StageTable

VOCABULARY = "a the two dogs dog man men runs run over in field grass red blue ball , . water big small child's".split()


def sentence(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(VOCABULARY, size=words).tolist())


def damaged(random: np.random.Generator, text: str, rate: float) -> str:
    """Some words dropped, some replaced by others, some doubled."""
    words = []
    for word in text.split():
        draw = random.random() / max(rate, 1e-9)
        if draw < 0.3:
            continue
        words.append(str(random.choice(VOCABULARY)) if draw < 0.8 else word)
        words += [word] if 0.8 <= draw < 1 else []
    return " ".join(words)


def written(
    rows: int, stages: int = 2, seed: int = 0, several: bool = True
) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """References of each row, one to three where ``several``, and the text of each stage ``(N, S)``."""
    random = np.random.default_rng(seed)
    references, texts = [], np.empty((rows, stages), dtype=object)
    for row in range(rows):
        text = sentence(random, int(random.integers(1, 14)))
        others = [damaged(random, text, 0.4) or "a" for _ in range(int(random.integers(0, 3)) if several else 0)]
        references.append((text, *others))
        hard = random.gamma(2.0, 0.35)
        for stage in range(stages):
            texts[row, stage] = damaged(random, text, hard * (0.7 - 0.5 * stage / max(stages - 1, 1)))
    return references, texts


def text_table(
    rows: int = 60,
    stages: int = 2,
    seed: int = 0,
    metrics: tuple[str, ...] = ("bleu",),
    splits: tuple[str, ...] = ("test",),
    several: bool = True,
    **changes,
) -> StageTable:
    """Texts of stages whose score is the surer the less is damaged; costs depend on what is written."""
    random = np.random.default_rng(seed + 1)
    references, texts = written(rows, stages, seed, several)
    lengths = np.array([[len(text.split()) + 1 for text in line] for line in texts])
    own = (40.0 + 10 * lengths) * 10.0 ** np.arange(stages)
    right = np.array(
        [[len(set(t.split()) ^ set(row[0].split())) for t in line] for row, line in zip(references, texts, strict=True)]
    )
    names = [f"tier{stage}" for stage in range(stages)]
    columns = {
        "split": np.array(splits)[np.arange(rows) * len(splits) // rows],
        "sample_id": np.arange(rows) * 3 + 1,
        "label": np.arange(rows),
        "stages": tuple(Stage(name, name) for name in names),
        "predictions": None,
        "decide_macs": np.cumsum(own, axis=1) - 9 * lengths,
        "macs": np.cumsum(own, axis=1),
        "macs_reference": own[:, -1],
        "scores": {"energy": -right + random.normal(size=right.shape)},
        "written": {name: lengths[:, index] for index, name in enumerate(names)},
        "cut_off": {name: (lengths[:, index] > 12).astype(int) for index, name in enumerate(names)},
        "texts": texts,
        "references": references,
        "metrics": metrics,
        "label_names": ("*",),
        "settings": {"seed": 3},
    }
    return StageTable(**{**columns, **changes}).with_scores(["random"])
