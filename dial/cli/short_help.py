"""Help of the trainer's commands in one page: the options that people use, and where the hundreds of others are."""

from __future__ import annotations

DATA = {
    "--data FILE|NAME": "configs/data/*.yaml, or TextDataModule, GLUEDataModule, GradedSentimentDataModule",
    "--data.train_file FILE": "rows of your own: .csv, .tsv, .jsonl (these also with .gz behind it) or .parquet",
    "--data.test_file FILE": "rows to test on; validation and calibration rows are cut from the training rows",
    "--data.text_column NAME": "column of the text; --data.text_b_column of the second one, where rows are pairs",
    "--data.label_column NAME": "column of the label: class names or numbers",
    "--data.task NAME": "sst2, mrpc, ... of GLUE; its files are in --data.source FOLDER, else read from the hub",
    "--data.batch_size N": "rows per process and step",
}
MODEL = {
    "--model NAME": "Classifier, Distillation, MultiExit, LengthAdaptive, Seq2Seq, EnergyHead, SpanQA, Cascade (tests)",
    "--model.path FOLDER|ID": "pretrained model, or a tier that `dial fit` left",
    "--model.layers N": "keep the first layers of the encoder only",
}
TRAINING = {
    "--model.teacher FOLDER": "trained tier to distil from",
    "--model.optimizer.init_args.lr RATE": "learning rate",
    "--trainer.max_epochs N": "epochs at most; early stopping may end a fit before (--early_stopping.patience)",
    "--length.min_steps N": "without max_epochs: steps that a small set gets at least",
    "--seed_everything N": "of initial weights, dropout and the like",
}
TESTING = {
    "--model.tiers '[A, B]'": "tier folders of a Cascade, cheapest first",
    "--sweep.scores '[A, B]'": "scores to route by: softmax, energy, margin, entropy, ...",
    "--sweep.targets '[1, 0.99]'": "shares of the last tier's quality to choose operating points for",
    "--study.rows N": "measure the time of so many rows, too",
}
MACHINE = {
    "--run FOLDER": "run folder; a killed command goes on there",
    "--trainer.accelerator NAME": "cpu, gpu, ...; --trainer.devices N: how many",
    "--trainer.precision NAME": "32-true, bf16-mixed, ...",
}
PAGES = {
    "fit": ("Train a tier and leave it in a run folder.", {**DATA, **MODEL, **TRAINING, **MACHINE}),
    "validate": ("Metrics of a model on the validation rows.", {**DATA, **MODEL, **MACHINE}),
    "test": (
        "Run every tier once over calibration and test rows, then sweep.",
        {**DATA, **MODEL, **TESTING, **MACHINE},
    ),
    "predict": ("Write one tier's predictions for the rows of a data set.", {**DATA, **MODEL, **MACHINE}),
}


def page(command: str) -> str:
    """Help of one command."""
    about, options = PAGES[command]
    options = {"--config FILE": "settings, such as configs/model/finetune.yaml; may be given several times", **options}
    lines = "".join(f"  {option:<35} {text}\n" for option, text in options.items())
    return (
        f"usage: dial {command} --config FILE ... [options]\n\n"
        f"{about} What comes later on the line counts.\n\n{lines}\n"
        f"All other options:         dial {command} --help=all\n"
        f"Those of a class:          dial {command} --model.help MultiExit, --data.help TextDataModule\n"
        f"Values that would be used: dial {command} ... --print_config\n"
    )


def options(command: str) -> list[str]:
    """The options of the page, without their values."""
    return ["--config", *(option.split()[0] for option in PAGES[command][1])]
