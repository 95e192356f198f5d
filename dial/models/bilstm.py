"""The BiLSTM classifier of TangoBERT (Mamou et al. 2022, sections 5.2 and 5.3) as a transformers model."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

from dial.losses import task_loss
from dial.machine import has_bf16
from dial.models.autocast import without_autocast
from dial.stages.task import task_of_columns


class BiLSTMConfig(PretrainedConfig):
    """Sizes of a :class:`BiLSTMForSequenceClassification`.

    Args:
        vocab_size: rows of the embedding table: the words plus padding and unknown word.
        embedding_size: width of a word embedding.
        hidden_size: units of each direction of each layer.
        num_hidden_layers: stacked bidirectional layers.
        classifier_size: width of the feed-forward layer before the outputs.
        dropout: between layers and before the outputs; the paper has none.
    """

    model_type = "bilstm"

    def __init__(
        self,
        vocab_size: int = 10_002,
        embedding_size: int = 50,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        classifier_size: int = 200,
        dropout: float = 0.0,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.classifier_size = classifier_size
        self.dropout = dropout
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class BiLSTMPreTrainedModel(PreTrainedModel):
    """Initialisation and names shared by the encoder and the classifier."""

    config_class = BiLSTMConfig
    base_model_prefix = "bilstm"

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation, which recurrent layers of this size train well from."""
        if isinstance(module, nn.Embedding | nn.Linear | nn.LSTM):
            module.reset_parameters()


class BiLSTMModel(BiLSTMPreTrainedModel):
    """Word embeddings and stacked bidirectional LSTMs; a text is the last state of the top layer in both directions."""

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
            bidirectional=True,
            batch_first=True,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of word embeddings."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the table of word embeddings."""
        self.embeddings = value

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode texts that are padded on the right.

        Padded positions are read by no state that counts. A text without any word is read as one padding token,
        whatever the width of its batch.

        Args:
            input_ids: ``(B, T)``; ``T`` may be 0.
            attention_mask: ``(B, T)``, 1 for the ``length`` first positions of a row.
            kwargs: ignored.

        Returns:
            ``pooler_output`` ``(B, 2 * hidden_size)``: the forward state after the last word and the backward state
            after the first one. ``last_hidden_state`` is None.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if torch.jit.is_tracing() or not input_ids.shape[1]:
            # One column of padding, for a batch of empty texts; a condition on the shape does not survive tracing.
            input_ids = F.pad(input_ids, (0, 1), value=self.config.pad_token_id)
        lengths, device = attention_mask.sum(dim=1).clamp(min=1), input_ids.device.type
        # oneDNN, which computes LSTMs on a CPU, has none in bf16 for processors without instructions for it.
        with without_autocast(device) if device == "cpu" and not has_bf16() else nullcontext():
            return BaseModelOutputWithPooling(pooler_output=self._states(self.embeddings(input_ids), lengths))

    def _states(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """What both directions end with, ``(B, 2 * hidden_size)``, of words ``(B, T, E)``."""
        if torch.onnx.is_in_onnx_export() or self._unpacked_is_faster(embedded, lengths):
            return self._without_packing(embedded, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (states, _) = self.lstm(packed)
        return torch.cat([states[-2], states[-1]], dim=-1)

    def _unpacked_is_faster(self, embedded: Tensor, lengths: Tensor) -> bool:
        """Whether to answer without packing: on a CPU packed rows of different lengths take more than twice as long.

        Rows of one length are as fast packed. In training there is dropout, which packed layers have; where operations
        are counted padding is to cost nothing.
        """
        if self.training or embedded.device.type != "cpu" or torch.jit.is_tracing():
            return False
        return bool((lengths != embedded.shape[1]).any())

    def _without_packing(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """What packed sequences give, ``(B, 2 * hidden_size)``, in operations that every backend has.

        Each direction is a layer that reads from left to right, the backward one the row turned round within its
        length, so that padding comes last and is read by no state that counts.

        Args:
            embedded: ``(B, T, E)``.
            lengths: ``(B,)``, from 1.
        """
        places = torch.arange(embedded.shape[1], device=embedded.device)
        turned = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)

        def turn(states: Tensor) -> Tensor:
            return states.gather(1, turned[:, :, None].expand(-1, -1, states.shape[2]))

        def read(states: Tensor, weights: Sequence[Tensor]) -> Tensor:
            start = states.new_zeros(1, states.shape[0], self.config.hidden_size)
            return torch.lstm(states, (start, start), list(weights), True, 1, 0.0, False, False, True)[0]

        states = embedded
        for layer in range(self.config.num_hidden_layers):
            forward, backward = self.lstm.all_weights[2 * layer : 2 * layer + 2]
            ahead, back = read(states, forward), turn(read(turn(states), backward))
            states = torch.cat([ahead, back], dim=-1)
        last = (lengths - 1)[:, None, None].expand(-1, -1, self.config.hidden_size)
        return torch.cat([ahead.gather(1, last)[:, 0], back[:, 0]], dim=-1)


class BiLSTMForSequenceClassification(BiLSTMPreTrainedModel):
    """A :class:`BiLSTMModel` under a feed-forward layer with ReLU and a linear output layer.

    With the default sizes and two classes it has 685,022 parameters.
    """

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bilstm = BiLSTMModel(config)
        self.dense = nn.Linear(2 * config.hidden_size, config.classifier_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.classifier_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Logits ``(B, C)`` and, where ``labels`` ``(B,)`` are given, their loss."""
        pooled = self.bilstm(input_ids, attention_mask=attention_mask).pooler_output
        logits = self.classifier(self.dropout(torch.relu(self.dense(pooled))))
        loss = None if labels is None else task_loss(logits, labels, task_of_columns(logits.shape[-1]))
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(BiLSTMConfig.model_type, BiLSTMConfig, exist_ok=True)
AutoModel.register(BiLSTMConfig, BiLSTMModel, exist_ok=True)
AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification, exist_ok=True)
