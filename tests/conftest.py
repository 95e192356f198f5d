"""Fixtures for all tests: no network, two threads at most, caches in a temporary folder."""

import os
import tempfile

# Set before torch, transformers or datasets are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
_CACHE = tempfile.TemporaryDirectory(prefix="dial-tests-")
os.environ["DIAL_CACHE"] = _CACHE.name
os.environ["HF_DATASETS_CACHE"] = f"{_CACHE.name}/datasets"

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
WORDS = "the a film plot cast is was not but good bad dull fine great poor very so and of ##s".split()
torch.set_num_threads(min(2, torch.get_num_threads()))


def _shared(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or default)
    folder = folder if folder.is_absolute() else ROOT / folder
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder}; set {variable} to another place")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder with `glue/sst2` and so on, as parquet (environment variable DIAL_DATA)."""
    return _shared("DIAL_DATA", "../shared/data")


@pytest.fixture(scope="session")
def models_folder() -> Path:
    """Folder with pretrained models, such as `minilm-l6-h384` (environment variable DIAL_MODELS)."""
    return _shared("DIAL_MODELS", "../shared/models")


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word-level tokenizer of WORDS in BERT's layout, `[CLS] a [SEP] b [SEP]`, at most 32 tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def make_tiny_bert(tmp_path_factory, tiny_tokenizer) -> Callable[..., Path]:
    """Function that saves a random tiny BERT with tokenizer and gives its folder.

    Arguments: `layers`, `labels` (names in the model's order; one name makes a regression), `seed`, and any
    further setting of `BertConfig`.
    """
    from transformers import BertConfig, BertForSequenceClassification

    def make(
        layers: int = 2, labels: tuple[str, ...] = ("negative", "positive"), seed: int = 0, **settings: object
    ) -> Path:
        config = BertConfig(
            **{
                "vocab_size": len(tiny_tokenizer),
                "hidden_size": 16,
                "num_hidden_layers": layers,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "max_position_embeddings": 32,
                "pad_token_id": 0,
                "initializer_range": 0.2,  # the usual 0.02 gives logits that hardly differ between rows
                "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)},
                **settings,
            }
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = BertForSequenceClassification(config).eval()
        folder = tmp_path_factory.mktemp("tiny-bert")
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bert(make_tiny_bert: Callable[..., Path]) -> Path:
    """Folder of a two-layer BERT with labels negative and positive."""
    return make_tiny_bert()


@pytest.fixture(scope="session")
def make_tiny_t5(tmp_path_factory) -> Callable[..., Path]:
    """Function that saves a random tiny T5 with a tokenizer of pieces and gives its folder.

    Arguments: `layers` of each half, `seed`, `texts` that the tokenizer knows beside WORDS, and any further setting of
    `T5Config`.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    from dial.models.pieces import build_piece_tokenizer

    def make(layers: int = 2, seed: int = 0, texts: Sequence[str] = (), **settings: object) -> Path:
        tokenizer = build_piece_tokenizer([" ".join(WORDS), "negative positive", *texts], "pieces", 120, 32)
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": layers, "dropout_rate": 0.1}
        special = {"pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": 0}
        config = T5Config(vocab_size=len(tokenizer), **{**sizes, **special, **settings})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = T5ForConditionalGeneration(config).eval()
        folder = tmp_path_factory.mktemp("tiny-t5")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_t5(make_tiny_t5: Callable[..., Path]) -> Path:
    """Folder of a T5 with two layers in each half."""
    return make_tiny_t5()


# What changes the process that imports it (examples register themselves, packages are hidden) is left to its own tests.
collect_ignore = [
    "additions/dataset.py", "additions/policy.py", "additions/score.py", "own/mean_rule.py", "scripts/hide_packages.py"
]  # fmt: skip
