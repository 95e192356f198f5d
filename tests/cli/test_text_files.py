"""`dial fit` and `dial predict` on the user's own files: hidden labels, and texts that are none."""

import json

from tests.cli.conftest import QUIET


def fit(dial, file, tiny_bert, run, *more):
    return dial(
        *("fit", "--config=configs/model/finetune.yaml", "--data=TextDataModule", f"--data.train_file={file}"),
        *(
            f"--model.path={tiny_bert}",
            "--model.max_length=32",
            "--trainer.max_epochs=1",
            f"--run={run}",
            *QUIET,
            *more,
        ),
    )


def test_hidden_labels(dial, tiny_bert, tmp_path) -> None:
    file = tmp_path / "a.csv"
    labels = ["negative", "positive", -1]
    file.write_text("text,label\n" + "".join(f"film {i},{labels[i % 3]}\n" for i in range(90)))
    error = fit(dial, file, tiny_bert, tmp_path / "run", "--data.label_names=[negative, positive]").error
    assert "30 of 90 rows" in error and "row 2 has '-1'" in error and "`hidden_labels`" in error
    text = fit(dial, file, tiny_bert, tmp_path / "run", "--data.hidden_labels=[-1]").ok()
    assert f"train: 30 of 90 rows of {file} have hidden labels and are left out" in text
    config = json.loads((tmp_path / "run/tier/config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}


def test_hidden_labels_are_counted_in_the_sweep(dial, make_tiny_bert, tmp_path) -> None:
    file = tmp_path / "a.csv"
    labels = ["negative", "positive", "negative", ""]
    file.write_text("text,label\n" + "".join(f"good film {i},{labels[i % 4]}\n" for i in range(60)))
    tiers = f"[{make_tiny_bert(layers=1, seed=1)}, {make_tiny_bert(layers=2, seed=2)}]"
    dial(
        *("test", "--config=configs/model/cascade.yaml", "--data=TextDataModule", f"--data.test_file={file}"),
        *("--data.calibration=crossfit", '--data.hidden_labels=[""]', f"--model.tiers={tiers}"),
        *("--sweep.bootstrap=100", f"--run={tmp_path}/run", *QUIET),
    ).ok()
    table = json.loads((tmp_path / "run/sweep/summary.json").read_text())["table"]
    assert table["hidden"] == {"test": 15}


def test_a_text_that_is_none_is_refused_before_any_work(dial, tiny_bert, tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"text": f"film {i}" if i != 7 else ["film"], "label": i % 2} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = fit(dial, file, tiny_bert, tmp_path / "run").error
    assert f"`train_file` {file}, line 8: must have a text as 'text', but has [\"film\"]; correct the file" in error
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("tier"))
