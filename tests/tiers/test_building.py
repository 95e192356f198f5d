"""Tiers built from a configuration, and saved."""

import os
import signal
from pathlib import Path

import pytest
import torch

from dial.tiers.loading import build_tier, load_tier, save_tier
from tests.tiers.tiny_tiers import DATA, TEXTS, logits_of, words_tier


@pytest.mark.parametrize("model_type", ["bilstm", "bert"])
def test_a_word_tokenizer_is_built_once(model_type: str) -> None:
    config = {"model_type": model_type, "vocab_size": 9, "hidden_size": 12}
    tier = build_tier(config, "words", DATA, max_length=8)
    with pytest.raises(RuntimeError, match="call fit_tokenizer"):
        _ = tier.encoding_key
    tier.fit_tokenizer(lambda: TEXTS)
    key = tier.encoding_key
    tier.fit_tokenizer(lambda: pytest.fail("asked for the texts again"))
    assert tier.encoding_key == key and len(tier.tokenizer) == 9 == tier.model.config.vocab_size
    first = tier.tokenizer("the plot")["input_ids"][0]
    assert tier.tokenizer.convert_ids_to_tokens(first) == ("the" if model_type == "bilstm" else "[CLS]")


def test_word_vectors_set_width_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "glove.txt").write_text("film 1 2 3\nplot 4 5 6\n[UNK] 7 7 7\n")
    tier = build_tier({"model_type": "bilstm", "vocab_size": 30}, "words", DATA, embeddings=str(tmp_path / "glove.txt"))
    tier.fit_tokenizer(lambda: TEXTS)
    table = tier.model.bilstm.embeddings.weight
    assert table.shape == (30, 3) and tier.model.config.embedding_size == 3
    words = tier.tokenizer.get_vocab()
    assert table[words["plot"]].tolist() == [4, 5, 6] and table[words["[UNK]"]].tolist() != [7, 7, 7]
    distinct = len({word for text in TEXTS for word in text.split()})
    assert f"{2 / distinct:.1%} of {distinct} words have a vector" in capsys.readouterr().out


def test_building_is_refused_with_a_reason(tiny_tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "glove.txt").write_text("film 1 2 3\n")
    glove = str(tmp_path / "glove.txt")
    with pytest.raises(ValueError, match=r"`config` must have a `model_type` that transformers knows .* got 'brt'"):
        build_tier({"model_type": "brt"}, "words", DATA)
    with pytest.raises(ValueError, match=r"`config` of bilstm allows .*hidden_size.* but got hiden_size"):
        build_tier({"model_type": "bilstm", "hiden_size": 3}, "words", DATA)
    with pytest.raises(ValueError, match="`config`: `vocab_size` must be at least the tokenizer's"):
        build_tier({"model_type": "bert", "vocab_size": 5}, str(tmp_path), DATA)
    with pytest.raises(ValueError, match="`embeddings` needs the tokenizer 'words'"):
        build_tier({"model_type": "bert"}, str(tmp_path), DATA, embeddings=glove)
    with pytest.raises(ValueError, match=r"`embeddings` must have the model's embedding width 12, but .* has 3"):
        build_tier({"model_type": "bert", "vocab_size": 9, "hidden_size": 12}, "words", DATA, embeddings=glove)
    with pytest.raises(ValueError, match="`config`: `layers` must be from 1 to 2, but got 3"):
        build_tier({"model_type": "bilstm"}, "words", DATA, layers=3)
    with pytest.raises(ValueError, match="`tokenizer` must be an existing folder or a hub id"):
        build_tier({"model_type": "bert"}, "./nowhere", DATA)


def test_saving_writes_a_whole_folder_with_a_card(tmp_path: Path) -> None:
    tier = words_tier()
    folder = save_tier(tmp_path / "runs" / "swift", tier, {"task": "sst2", "metric": {"accuracy": 0.5}})
    again = load_tier(str(folder), "other", DATA)
    torch.testing.assert_close(logits_of(again), logits_of(tier))
    assert again.encoding_key == tier.encoding_key
    assert again.card == {"task": "sst2", "metric": {"accuracy": 0.5}}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["swift"]


def test_saving_replaces_only_what_it_may(tmp_path: Path) -> None:
    first, second = words_tier(), words_tier()
    folder = save_tier(tmp_path / "swift", first, {"n": 1})
    with pytest.raises(ValueError, match=r"`folder` must not exist yet, but .* an earlier model"):
        save_tier(folder, second, {"n": 2})
    assert load_tier(str(folder), "t", DATA).card == {"n": 1}
    save_tier(folder, second, {"n": 2}, replace=True)
    assert load_tier(str(folder), "t", DATA).fingerprint == second.fingerprint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match="something that `dial fit` did not write"):
        save_tier(tmp_path / "mine", first, {}, replace=True)
    assert (tmp_path / "mine" / "thesis.tex").is_file()


def test_a_tier_is_saved_alike_whether_it_has_read_texts_or_not(tmp_path: Path) -> None:
    tier = words_tier()
    saved = []
    for name, options in (("first", {}), ("cut", {"truncation": True, "max_length": 3}), ("filled", {"padding": True})):
        tier.tokenizer(TEXTS, **options)
        saved.append((save_tier(tmp_path / name, tier, {}) / "tokenizer.json").read_bytes())
    assert saved == [saved[0]] * 3


def test_a_failed_save_leaves_the_earlier_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tier(tmp_path / "swift", words_tier(), {"n": 1})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tier = words_tier()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tier.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        save_tier(folder, tier, {"n": 2}, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["swift"]


def test_a_failed_rename_brings_the_earlier_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = save_tier(tmp_path / "swift", words_tier(), {"n": 1}), Path.rename

    def refuse_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="Input/output"):
        save_tier(folder, words_tier(), {"n": 2}, replace=True)
    assert load_tier(str(folder), "t", DATA).card == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["swift"]


def test_a_kill_while_models_change_places_loses_none(tmp_path: Path) -> None:
    folder = save_tier(tmp_path / "swift", words_tier(), {"n": 1})
    if (child := os.fork()) == 0:
        rename = Path.rename

        def killed(path: Path, target: Path) -> Path:
            if path.name.endswith(".part"):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.rename = killed  # type: ignore[assignment, method-assign]
        save_tier(folder, words_tier(), {"n": 2}, replace=True)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    save_tier(tmp_path / "other", words_tier(), {"n": 3})  # removes what killed processes were writing
    assert load_tier(str(tmp_path / ".swift.earlier"), "t", DATA).card == {"n": 1}
    save_tier(folder, words_tier(), {"n": 4})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "swift"]
