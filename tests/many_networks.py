"""Small networks of many kinds, with what targets leave out, and a run on any of them."""

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5EncoderModel,
)

from lowrank_bench import compress

IDS = torch.arange(1, 9).reshape(1, -1)
SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {"vocab_size": 60, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, intermediate_size=8))


def gpt2():
    return GPT2Model(GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2))


def mixtral():
    more = {"intermediate_size": 8, "num_key_value_heads": 2, "num_local_experts": 4}
    return MixtralForCausalLM(MixtralConfig(**SIZES, **more, tie_word_embeddings=False))


def llama():
    more = {"intermediate_size": 8, "num_key_value_heads": 2, "tie_word_embeddings": False}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **more))


def t5():
    """A T5 encoder whose two names for the embedding are one module."""
    model = T5EncoderModel(T5Config(**T5))
    model.encoder.embed_tokens = model.shared
    return model


class Cnn(nn.Module):
    """Convolutions of one, two and three dimensions, a transposed one, groups and norms."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.line, self.box = nn.Conv1d(6, 5, 3), nn.Conv3d(1, 2, 3)
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.head, self.unused = nn.Linear(5, 4), nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).relu() * self.scale
        x = self.up(self.depthwise(x + self.second(x)))
        return self.head(self.line(x.flatten(2)).mean(2))


class Recurrent(nn.Module):
    """An embedding, an LSTM, a cell and a linear layer."""

    def __init__(self):
        super().__init__()
        self.words, self.inner = nn.Embedding(60, 16), nn.Linear(16, 16)
        self.lstm, self.cell = nn.LSTM(16, 8, bidirectional=True), nn.GRUCell(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids):
        hidden, _ = self.lstm(self.inner(self.words(input_ids)))
        return self.head(self.cell(hidden[:, -1]))


class Encoder(nn.Module):
    """Torch's own transformer, whose attention has one weight for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(60, 16), nn.Parameter(torch.randn(1, 8, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, input_ids):
        return self.encoder(self.words(input_ids) + self.places)


def quantized():
    kinds = {nn.Linear, nn.LSTM, nn.GRUCell}
    quantize = torch.ao.quantization.quantize_dynamic
    return quantize(Recurrent().eval(), kinds, dtype=torch.qint8)


def run(build, target, compression=0.3, model=None):
    torch.manual_seed(0)
    model = (model or build()).eval()
    if target == "embedding":
        return model, *compress(model, "svd", compression, certificate=False)
    example = {"x": torch.randn(1, 3, 6, 6)} if build is Cnn else {"input_ids": IDS}
    return model, *compress(model, "svd", compression, target, example=example)
