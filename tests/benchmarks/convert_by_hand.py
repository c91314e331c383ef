"""The bare work of a source's way to a runtime, as somebody might write it by hand: no Burnish in it.

    python convert_by_hand.py export-minilm FOLDER model.onnx        in the environment that has PyTorch
    python convert_by_hand.py export-resnet FILE model.onnx
    python convert_by_hand.py export-keras FILE model.onnx           in the one that has TensorFlow
    python convert_by_hand.py build-openvino model.onnx DIRECTORY    in the one that has the runtimes
    python convert_by_hand.py build-ort model.onnx DIRECTORY

Each loads, converts, writes, and runs what it wrote once, as anybody would before using it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def export_minilm(source: Path, target: Path) -> None:
    """A sentence-transformers folder: transformer, mean pooling, length 1."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformers.AutoModel.from_pretrained(source, attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> torch.Tensor:
            tokens = self.transformer(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).float()
            return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)

    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    example = (torch.ones(2, 8, dtype=torch.int64),) * 3
    program = torch.onnx.export(
        Encoder().eval(), example, dynamo=True, dynamic_shapes=(axes,) * 3, input_names=TOKENS, output_names=["sentence_embedding"], verbose=False
    )
    program.save(target, external_data=False)
    run_onnx(target, {name: np.ones((2, 8), np.int64) for name in TOKENS})


def export_resnet(source: Path, target: Path) -> None:
    """A state dict of torchvision's ResNet-18."""
    import safetensors.torch
    import torch
    import torchvision

    network = torchvision.models.resnet18(num_classes=10)
    network.load_state_dict(safetensors.torch.load_file(source))
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 64, 64),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["image"],
        output_names=["output"],
        verbose=False,
    )
    program.save(target, external_data=False)
    run_onnx(target, {"image": np.zeros((2, 3, 64, 64), np.float32)})


def export_keras(source: Path, target: Path) -> None:
    """A .keras file, with tf2onnx."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow
    import tf2onnx

    model = keras.models.load_model(source, compile=False)
    signature = [tensorflow.TensorSpec((None, *model.inputs[0].shape[1:]), tensorflow.float32, name="image")]
    function = tensorflow.function(lambda image: model(image, training=False), input_signature=signature)
    tf2onnx.convert.from_function(function, input_signature=signature, opset=18, output_path=str(target))
    run_onnx(target, {"image": np.zeros((2, *model.inputs[0].shape[1:]), np.float32)})


def build_openvino(source: Path, target: Path) -> None:
    """IR in FP32."""
    import openvino

    openvino.save_model(openvino.convert_model(source), target / "model.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(target / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": "1"})
    compiled({port.get_any_name(): zeros(port.get_element_type().to_dtype(), port.get_partial_shape().to_string()) for port in compiled.inputs})


def build_ort(source: Path, target: Path) -> None:
    """The file itself, checked."""
    import onnx

    onnx.checker.check_model(onnx.load(source), full_check=True)
    (target / "model.onnx").write_bytes(source.read_bytes())
    inputs = {i.name: (i.type, i.shape) for i in open_onnx(target / "model.onnx").get_inputs()}
    run_onnx(
        target / "model.onnx", {name: np.ones([s if isinstance(s, int) else 8 for s in shape], kind(text)) for name, (text, shape) in inputs.items()}
    )


def kind(text: str) -> type:
    """NumPy's type of ONNX Runtime's `tensor(int64)`."""
    return np.int64 if "int64" in text else np.float32


def zeros(dtype: np.dtype, shape: str) -> np.ndarray:
    """A request for OpenVINO's `[?,3,64,64]`; sizes that vary are 8."""
    return np.ones([8 if not s.strip().isdigit() else int(s) for s in shape.strip("[]").split(",")], dtype)


def open_onnx(path: Path):  # of a library that is only imported here
    """A session with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def run_onnx(path: Path, feed: dict[str, np.ndarray]) -> None:
    """Once."""
    open_onnx(path).run(None, feed)


WAYS: dict[str, Callable[[Path, Path], None]] = {
    "export-minilm": export_minilm,
    "export-resnet": export_resnet,
    "export-keras": export_keras,
    "build-openvino": build_openvino,
    "build-ort": build_ort,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
