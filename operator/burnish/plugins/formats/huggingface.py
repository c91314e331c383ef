"""The HuggingFace format: a directory as `save_pretrained` of transformers, or of sentence-transformers, leaves it.

Only the library's own classes are built: code that lies beside the weights never runs, and weights are read as safetensors. What is served takes
token ids; the tokenizer's files travel with the artifact for those who make them.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from burnish.errors import BurnishError, Reason
from burnish.plugins import base
from burnish.plugins.base import Task
from burnish.plugins.files import Files, LocalFiles, read_json
from burnish.plugins.formats import _exported, _huggingface_inputs, _huggingface_pooling, _torch_architectures, _torch_module

if TYPE_CHECKING:
    import numpy as np

TOKENIZERS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.txt", "vocab.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "dict.txt", "merges.txt", "bpe.codes"),
    *("spiece.model", "spm.model", "spm_char.model", "sentencepiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm"),
    *("prophetnet.tokenizer", "normalizer.json", "byte_maps.json", "emoji.json", "word_shape.json", "word_pronunciation.json"),
)
"""What tokenizers are made from: the `vocab_files_names` of transformers' own, and what `save_pretrained` writes beside them."""

COMPANIONS = (*TOKENIZERS, "sentence_bert_config.json", "config_sentence_transformers.json", "preprocessor_config.json", "config.json")
"""What a tokenizer or an image processor is made from, a sentence model's lengths and prompts, and config.json for the names of the classes."""

_CLASSES = {
    Task.FeatureExtraction: "AutoModel",
    Task.SentenceEmbedding: "AutoModel",
    Task.TextClassification: "AutoModelForSequenceClassification",
    Task.TokenClassification: "AutoModelForTokenClassification",
    Task.QuestionAnswering: "AutoModelForQuestionAnswering",
    Task.FillMask: "AutoModelForMaskedLM",
    Task.ImageClassification: "AutoModelForImageClassification",
}
_SUFFIXES = {
    "ForSequenceClassification": Task.TextClassification,
    "ForTokenClassification": Task.TokenClassification,
    "ForQuestionAnswering": Task.QuestionAnswering,
    "ForMaskedLM": Task.FillMask,
    "ForImageClassification": Task.ImageClassification,
    "Model": Task.FeatureExtraction,
}
_BODY = (Task.FeatureExtraction, Task.SentenceEmbedding)
"""Tasks that take a model without its head."""
_GENERATIVE = ("LMHeadModel", "ModelWithLMHead", "DoubleHeadsModel", "ForCausalLM", "ForConditionalGeneration")
_MASKED = "WithLMHeadModel"
"""The only head of language that XLM and Flaubert have; whether it generates or fills masks, its author knows."""
_TOKENIZER_CONFIG = "tokenizer_config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
"""Where weights are in several files: which one holds which weight."""
_LISTED = 5
_TASK_FIELD, _URI_FIELD = "spec.source.task", "spec.source.uri"


class HuggingFace(base.Format):
    """A directory with config.json and safetensors."""

    name: ClassVar[str] = "HuggingFace"
    toolchain: ClassVar[str] = "torch"
    options: ClassVar[frozenset[str]] = frozenset({"task"})
    is_trainable: ClassVar[bool] = True

    def detect(self, files: Files) -> bool:
        """True for a directory with transformers' config.json, or sentence-transformers' modules.json, and with weights of PyTorch."""
        if not files.is_directory:
            return False
        config = read_json(files, "config.json")
        is_described = isinstance(config, dict) and ("model_type" in config or "architectures" in config)
        has_weights = any(path.endswith(".safetensors") or Path(path).name.startswith("pytorch_model") for path in files.paths)
        return has_weights and (is_described or isinstance(read_json(files, "modules.json"), list))

    def export(self, source: base.SourceModel, target: Path, *, image: base.ServingImage) -> tuple[base.Signature, base.GraphFacts]:
        """Load the class of the task with the library's own code, export.

        Raises:
            BurnishError: ArchitectureMismatch, InvalidModel; as `NamedModule.export`.
        """
        model = _load(source)
        if any(i.tensor.name == "input_ids" for i in model.inputs):
            source.say(_about_tokens([path.name for path in self.companions(source.path)]))
        return model.export(target, image=image)

    def reference(self, source: base.SourceModel, feeds: Sequence[base.Arrays]) -> list[dict[str, np.ndarray]]:
        """Outputs of the model in PyTorch, eager."""
        model = _load(dataclasses.replace(source, say=base.silent))  # `export` has said it
        return [model.run(feed) for feed in feeds]

    def module(self, source: base.SourceModel) -> _torch_module.NamedModule:
        """The class of the task with its weights."""
        return _load(dataclasses.replace(source, say=base.silent))

    def companions(self, path: Path) -> list[Path]:
        """The tokenizer's or image processor's files, and config.json: of the transformer's folder, else of the directory itself.

        Raises:
            BurnishError: as `_huggingface_pooling.transformer_folder`.
        """
        listed = [(folder, LocalFiles(folder).paths) for folder in _folders(path)]
        found = [next((folder / name for folder, paths in listed if name in paths), None) for name in COMPANIONS]
        return [file for file in found if file is not None]


def _about_tokens(companions: Sequence[str]) -> str:
    if not set(TOKENIZERS) & set(companions):
        return (
            "the served model takes token ids, and the source holds no tokenizer's files, so none travel with the artifact; "
            "its clients need the tokenizer that the model was trained with, or add it to the source (tokenizer.save_pretrained)"
        )
    return f"the served model takes token ids; for those who make them, the artifact's folder companions/ holds {', '.join(companions)}"


def _folders(path: Path) -> list[Path]:
    """Where the files of the transformer and of its tokenizer lie, the likelier first."""
    if "modules.json" not in LocalFiles(path).paths:
        return [path]
    return list(dict.fromkeys([_huggingface_pooling.transformer_folder(path), path]))


def _load(source: base.SourceModel) -> _torch_module.NamedModule:
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import: with no network in reach, looking for it takes a minute
    is_sentence_model = "modules.json" in LocalFiles(source.path).paths
    task = source.options.task or (Task.SentenceEmbedding if is_sentence_model else None)
    if task is Task.SentenceEmbedding and not is_sentence_model:
        raise BurnishError(
            Reason.ArchitectureMismatch, "there is no modules.json that says how to pool; write task: FeatureExtraction", field=_TASK_FIELD
        )
    folders = _folders(source.path)
    task = task or _default_task(folders[0])
    model = _from_pretrained(folders[0], task, source)
    names = _tokenizer_inputs(folders, source) if model.main_input_name == "input_ids" else None
    inputs = _huggingface_inputs.of_model(model, names, _image_size(folders))
    module = _huggingface_pooling.with_pooling(model, source.path) if task is Task.SentenceEmbedding else model
    return _torch_module.NamedModule(module.eval(), _exported.declare(inputs, source.inputs), by_keyword=True)


def _architectures(folder: Path) -> list[str]:
    config = read_json(LocalFiles(folder), "config.json")
    named = config.get("architectures") if isinstance(config, dict) else None
    return [str(name) for name in named] if isinstance(named, list) else []


def _trained_task(named: Sequence[str]) -> Task | None:
    return next((task for suffix, task in _SUFFIXES.items() if any(name.endswith(suffix) for name in named)), None)


def _default_task(folder: Path) -> Task:
    named = _architectures(folder)
    _check_generative(named, None)
    task = _trained_task(named)
    if task is None:
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"config.json names {', '.join(named) or 'no class'}, which says no task; set one of {', '.join(Task)}",
            field=_TASK_FIELD,
        )
    return task


def _check_generative(named: Sequence[str], task: Task | None) -> None:
    """Served once and not token by token, a model that generates is of use for its body only, and that has to be meant."""
    odd = next((name for name in named if name.endswith(_GENERATIVE) and not (task is Task.FillMask and name.endswith(_MASKED))), None)
    if odd and task not in _BODY:
        also = " (or task: FillMask, if it was trained for that)" if odd.endswith(_MASKED) else ""
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"config.json names {odd}, which generates text; only encoders are served. Write task: FeatureExtraction to take its body alone{also}",
            field=_TASK_FIELD,
        )


def _check_task(folder: Path, task: Task) -> None:
    """A head of another task may have the very shapes, and would answer nonsense."""
    named = _architectures(folder)
    _check_generative(named, task)
    trained = _trained_task(named) or task
    if trained not in (task, Task.FeatureExtraction) and task not in _BODY:
        text = f"the model was trained for {trained} (config.json names {', '.join(named)}); write that, or task: FeatureExtraction"
        raise BurnishError(Reason.ArchitectureMismatch, text, field=_TASK_FIELD)


def _class(folder: Path, task: Task, source: base.SourceModel) -> Any:
    """What loads the model: the class that config.json names where that is a body itself (of T5, say, the encoder), else the usual one of the task."""
    import transformers

    usual = getattr(transformers, _CLASSES[task])
    named = next((name for name in _architectures(folder) if name.endswith("Model") and not name.endswith(_GENERATIVE)), None)
    if task not in _BODY or named is None:
        return usual
    found = getattr(transformers, named, None)
    if inspect.isclass(found) and issubclass(found, transformers.PreTrainedModel):
        return found
    source.say(f"config.json names {named}, which transformers {transformers.__version__} doesn't have; the class of its model_type was taken")
    return usual


def _from_pretrained(folder: Path, task: Task, source: base.SourceModel) -> Any:
    """The model with all its weights, in FP32 and with attention that exports.

    Raises:
        BurnishError: ArchitectureMismatch, InvalidModel, UnsafeSource.
    """
    import safetensors
    import torch
    import transformers

    _check_config(folder, transformers)
    _check_task(folder, task)
    _check_index(folder)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what it would report is refused, or said in our words
    try:
        model, told = _class(folder, task, source).from_pretrained(
            folder,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_weights` refuses them, with both shapes
        )
    except safetensors.SafetensorError as error:
        raise BurnishError(Reason.InvalidModel, f"the weights are no complete safetensors file ({error}); copy or save them again") from error
    except OSError as error:
        said = " ".join(str(error).replace(str(folder), folder.name).split())[:300]
        cure = "save the model again as safetensors: model.save_pretrained('folder')"
        raise BurnishError(Reason.InvalidModel, f"transformers finds no weights it may read: {said}; {cure}") from error
    except Exception as error:  # of the library's own constructors: ValueError, RuntimeError, KeyError, ...
        said = " ".join(str(error).split())[:400]
        raise BurnishError(Reason.ArchitectureMismatch, f"transformers can't load the model for {task}: {said}", field=_TASK_FIELD) from error
    _check_weights(model, told, task, source)
    model.config.use_cache = False
    return model


def _check_config(folder: Path, transformers: Any) -> None:
    config = read_json(LocalFiles(folder), "config.json")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        own = "; its config.json names code of its own, which is never run" if isinstance(config, dict) and "auto_map" in config else ""
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"transformers {transformers.__version__} has no model_type {kind!r}{own}; {_torch_architectures.RECIPE}",
            field=_URI_FIELD,
        )


def _check_index(folder: Path) -> None:
    """The library opens the files that an index names, wherever they are; here they lie beside it."""
    files = LocalFiles(folder)
    if _WEIGHTS in files.paths or _INDEX not in files.paths:
        return
    index = read_json(files, _INDEX)
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise BurnishError(Reason.InvalidModel, f"{_INDEX} does not tell where the weights are (weight_map); copy or save them again")
    for name in sorted({*placed.values()} - {*files.paths}):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            text = f"{_INDEX} names {name!r}, which leads out of the source; nothing outside is read: save the model again with save_pretrained"
            raise BurnishError(Reason.UnsafeSource, text, field=_URI_FIELD)
        raise BurnishError(Reason.InvalidModel, f"{_INDEX} names {name!r}, which is not there; copy the model again, with all its files")


def _check_weights(model: Any, told: dict[str, Any], task: Task, source: base.SourceModel) -> None:
    """Weights that the library would make up are refused, but for a pooler that the task doesn't need."""
    missing = sorted(told["missing_keys"])
    if task in _BODY and missing and all("pooler." in name for name in missing):
        model.pooler = None
        source.say("the weights hold no pooler; the model is served without its output")
        missing = []
    shapes = [f"{name} is {list(found)}, not {list(wanted)}" for name, found, wanted in sorted(told["mismatched_keys"])]
    odd = [*shapes, *(f"{name} is missing" for name in missing)]
    if odd:
        rest = f" and {len(odd) - _LISTED} more" if len(odd) > _LISTED else ""
        cure = "set the task that it was trained for" if missing else "config.json and weights are of two models; save it again with save_pretrained"
        raise BurnishError(
            Reason.ArchitectureMismatch,
            f"the weights are not those of {type(model).__name__}: {', '.join(odd[:_LISTED])}{rest}; {cure}",
            field=_TASK_FIELD if missing else _URI_FIELD,
        )
    if told["unexpected_keys"]:
        source.say(f"{len(told['unexpected_keys'])} weights are not part of {type(model).__name__} and were left out")


def _first_json(folders: Sequence[Path], name: str) -> object:
    """Of the first folder that has such a file; None where none has."""
    return next((read_json(files, name) for files in map(LocalFiles, folders) if name in files.paths), None)


def _tokenizer_inputs(folders: Sequence[Path], source: base.SourceModel) -> list[str] | None:
    """What the tokenizer makes; None where its file doesn't say it, or nothing that a model could take."""
    config = _first_json(folders, _TOKENIZER_CONFIG)
    names = config.get("model_input_names") if isinstance(config, dict) else config
    if names is None or (isinstance(names, list) and "input_ids" in names):
        return names
    odd = f"model_input_names: {json.dumps(names)[:100]}" if isinstance(config, dict) else "no JSON object"
    source.say(f"{_TOKENIZER_CONFIG} holds {odd}, which names no inputs of the model; it is served with those that its configuration asks for")
    return None


def _image_size(folders: Sequence[Path]) -> tuple[int, int] | None:
    """Height and width that the image processor makes."""
    config = _first_json(folders, "preprocessor_config.json")
    if not isinstance(config, dict):
        return None
    size = config.get("crop_size") or config.get("size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict):
        height, width = (size.get(side, size.get("shortest_edge")) for side in ("height", "width"))
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return None
