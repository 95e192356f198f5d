"""Training of E-LANG's energy head on the frozen encoder of an encoder-decoder (section 3.2.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.labels import is_free_text
from dial.inference.staged import StagedModel
from dial.losses import bag_loss, position_loss, task_loss
from dial.models.encoder_decoder import encoder_fingerprint, encoder_of, hidden_size, vocabulary_fingerprint
from dial.models.energy_head import ClassHead, HeadConfig, HeadKind, HeadPooling, Reading, VocabularyHead, build_head
from dial.models.kept_states import KeptStates
from dial.tiers.labels import check_targets_agree
from dial.tiers.text_loading import check_words, load_text_tier
from dial.tiers.text_to_text import TextToTextTier
from dial.tiers.tier import View
from lightning_modules.base import Batch
from lightning_modules.rows import each_once
from lightning_modules.training import TierModule

HEAD = "energy_head"  # what a checkpoint says of the head


class EnergyHead(TierModule):
    """An energy head on a frozen encoder, which is neither trained nor run with dropout; the decoder never runs.

    A head of classes (Eq. 7) minimises cross-entropy against the labels. Its encoder's states are pooled and kept, so
    that from the second epoch on the encoder does not run either. A head over the vocabulary (Eq. 8) learns the pieces
    of the target at each position of the source.

    Checkpoints hold the head alone.

    Args:
        path: folder or hub id of an encoder-decoder, fine-tuned or not.
        layers: cut both halves to their first layers.
        max_length: tokens kept of each source.
        kind: ``classes`` or ``vocabulary``. Default: classes where answers are label words, else vocabulary.
        pooling: what a head of classes reads: the ``mean`` over the tokens, or the ``first`` one.
        bottleneck: width of a small head over the vocabulary, which costs the share ``bottleneck / width`` of a full
            one; full if not given.
        reading: what a head over the vocabulary learns: ``position`` m the target's piece m (cut, or padded), or each
            position the ``bag`` of all its pieces.
        apart: leave the head alone in ``tier/``, for a tier that names this folder as its ``head``, not a whole tier.
        training: see :class:`~lightning_modules.training.TierModule`.

    Raises:
        ValueError: an argument is outside its range, the model is no encoder-decoder, or was trained to write something
            else, or a head of classes is asked for where answers are none.
    """

    trains_head = True

    def __init__(
        self,
        path: str,
        layers: int | None = None,
        max_length: int = 128,
        kind: HeadKind | None = None,
        pooling: HeadPooling = "mean",
        bottleneck: int | None = None,
        reading: Reading = "position",
        apart: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        words = [] if is_free_text(self.label_names) else self.label_names
        kind = kind or ("classes" if words else "vocabulary")
        if kind == "classes" and not words:
            raise ValueError(
                "`kind` must be vocabulary where answers are no label words, but got classes; leave it out, or name "
                "the words as `data.label_names`."
            )
        view = View(path=path, layers=layers, max_length=max_length)
        tier = load_text_tier(view, "model", self.label_names, "path", train=True)
        check_words(tier.card, self.label_names, path, "path")
        tier.model.requires_grad_(False)
        config = _config(tier, kind, words, pooling=pooling, bottleneck=bottleneck, reading=reading)
        tier.head, tier.apart = build_head(config), apart
        self.network = StagedModel([tier])
        self._kept: dict[str, KeptStates] = {}

    @property
    def tier(self) -> TextToTextTier:
        """The encoder-decoder, with the head in training."""
        tier = self.network.tiers[0]
        assert isinstance(tier, TextToTextTier)
        return tier

    @property
    def reads_targets(self) -> bool:
        """Whether batches must hold the targets' pieces."""
        return isinstance(self.tier.head, VocabularyHead)

    def setup(self, stage: str) -> None:
        """Refuse a tier that was trained to write something else than the data holds."""
        super().setup(stage)
        check_targets_agree({"the tier": self.tier.card.get("target")}, getattr(self.data, "target", None), "path")

    def train(self, mode: bool = True) -> EnergyHead:
        """Put the head into training mode; the encoder never is."""
        super().train(mode)
        self.tier.model.eval()
        return self

    def on_train_start(self) -> None:
        """Put the encoder into evaluation mode; not before, where Lightning would warn of it."""
        self.tier.model.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, a scalar."""
        if isinstance(self.tier.head, ClassHead):
            loss = task_loss(self._class_logits(self.tier.head, batch, "train"), batch["label"], self.task)
        else:
            loss = self._piece_losses(batch).mean()
        return self.log_loss(loss, batch)

    def _class_logits(self, head: ClassHead, batch: Batch, role: str) -> Tensor:
        """Logits ``(B, C)`` from pooled states, of which those that are not kept yet are computed."""
        encoding = batch["encodings"][self.tier.encoding_key]

        def compute(rows: Tensor) -> Tensor:
            with torch.no_grad():
                read = self.tier.read({name: values[rows] for name, values in encoding.items()})
                return head.pool(read.states, read.mask)

        if role not in self._kept:
            self._kept[role] = KeptStates(torch.from_numpy(np.array(self.data.sample_ids(role))))
        return head.of_pooled(self._kept[role](batch["sample_id"], compute))

    def _piece_losses(self, batch: Batch) -> Tensor:
        """Losses ``(B,)`` of a head over the vocabulary."""
        head, encoding = self.tier.head, batch["encodings"][self.tier.encoding_key]
        assert isinstance(head, VocabularyHead)
        with torch.no_grad():
            read = self.tier.read(encoding)
        mask = torch.ones(read.states.shape[:2], device=self.device) if read.mask is None else read.mask
        logits, targets = head.of_positions(read.states, mask), encoding["labels"]
        if head.config.reading == "bag":
            return bag_loss(logits, mask, targets)
        return position_loss(logits, mask, targets, int(self.tier.model.config.pad_token_id))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the head's logits, or the losses of a head over the vocabulary."""
        if isinstance(self.tier.head, ClassHead):
            values = self._class_logits(self.tier.head, batch, "validation")
        else:
            values = self._piece_losses(batch).unsqueeze(1)
        rows = {"sample_id": batch["sample_id"], "label": batch["label"], "logits": values.unsqueeze(1).float()}
        self.validation_rows.add(rows)

    def on_validation_epoch_end(self) -> None:
        """Log the quality of the head's own answers, or minus the loss of a head over the vocabulary."""
        if isinstance(self.tier.head, ClassHead):
            super().on_validation_epoch_end()
            return
        loss = float(each_once(self.validation_rows.gather()[""])["logits"].mean(dtype=np.float64))
        logged = {"validation/loss": loss, "validation/quality": -loss}
        self.tell_quality(logged, [f"validation/loss {loss:.4f}"])

    # ---- checkpoints, which hold the head alone ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen model out."""
        assert self.tier.head is not None
        frozen = {id(value) for value in self.tier.model.state_dict(keep_vars=True).values()}
        ours = {name for name, value in self.state_dict(keep_vars=True).items() if id(value) not in frozen}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in ours}
        checkpoint[HEAD] = _plain(self.tier.head.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a head of another encoder, other words or another shape.

        Raises:
            ValueError: it is.
        """
        assert self.tier.head is not None
        given, own = checkpoint.get(HEAD, {}), _plain(self.tier.head.config)
        if given != own:
            differ = [name for name, value in own.items() if value != given.get(name)]
            raise ValueError(
                f"`--ckpt_path` must be a checkpoint of this encoder's head, but its {', '.join(differ)} differ; give "
                "the arguments with which it was trained."
            )
        self._trained = True

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load a head, and leave the frozen model as it is where ``state_dict`` lacks it."""
        return super().load_state_dict({**self.state_dict(), **state_dict}, strict=strict, assign=assign)


def _plain(config: HeadConfig) -> dict[str, Any]:
    """A configuration in values that any file can hold."""
    return config.to_json() | {"label_words": list(config.label_words)}


def _config(tier: TextToTextTier, kind: HeadKind, words: list[str], **shape: Any) -> HeadConfig:
    """What a head for a tier is; ``shape`` is what :class:`HeadConfig` has of the module's arguments."""
    classes = kind == "classes"
    return HeadConfig(
        kind=kind,
        hidden_size=hidden_size(tier.model),
        outputs=len(words) if classes else len(tier.tokenizer),
        encoder=encoder_fingerprint(encoder_of(tier.model)),
        label_words=tuple(words) if classes else (),
        vocabulary="" if classes else vocabulary_fingerprint(tier.tokenizer),
        **shape,
    )
