"""A SavedModel's protobuf, read before TensorFlow loads it: its signatures, and the operators in it that reach beyond the model.

A SavedModel is a program. Its graph, and each function of its library, may read and write files, open connections or call Python; loading runs some
functions (initializers), and asking for the framework's own answer runs a signature. So what it holds is judged first, on the protobuf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Reason

MODEL = "saved_model.pb"
_OTHER_FORMS = ("saved_model.cpb", "saved_model.pbtxt")
"""What TensorFlow's loader would take instead, or beside it."""
_STATEFUL = re.compile(
    "|".join(
        (
            r"VarHandleOp|ReadVariableOp|Assign(Add|Sub)?VariableOp|VarIsInitializedOp|VariableShape|DisableCopyOnRead|DestroyResourceOp",
            r"Resource(Gather(Nd)?|Scatter\w+|StridedSliceAssign|(Sparse)?Apply\w+)",
            r"StatefulPartitionedCall|If|While|Case",
            r"Random(Uniform|UniformInt|StandardNormal|Gamma|Shuffle|Poisson|PoissonV2)|(Parameterized)?TruncatedNormal|Multinomial",
            r"Stateful(Uniform\w*|StandardNormal\w*|TruncatedNormal|RandomBinomial)|Rng(Skip|ReadAndSkip)|StatelessRandomGetAlg|NonDeterministicInts",
            r"TensorArray\w*V3|Stack(Push|Pop|Close)?V2|Empty|DeepCopy|GuaranteeConst|Assert|CheckNumerics(V2)?",
            r"CudnnRNN\w*|\w*CandidateSampler",
            r"\w*HashTable\w*|LookupTable\w+V2|InitializeTableV2",
        )
    )
)
"""Operators that TensorFlow calls stateful and whose state is the model's own: variables, calls, random numbers, arrays and tables in memory."""
_OUTWARD = re.compile(
    r"ReadFile|MatchingFiles|ImmutableConst|GenerateVocabRemapping|\w*FromTextFile|Debug\w+|\w*Dataset\w*|PyFunc\w*|XlaCustomCall\w*"
)
"""Operators that TensorFlow does not call stateful and that open files, write to where an attribute says, or call code."""
_INTERNAL = re.compile(r"__saved_model_(init|train)_op")
_LISTED = 5


def read(folder: Path) -> Any:
    """The one MetaGraphDef of the SavedModel in `folder`.

    Raises:
        BurnishError: InvalidModel.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    found = saved_model_pb2.SavedModel()
    try:
        found.ParseFromString((folder / MODEL).read_bytes())
    except (DecodeError, RuntimeError) as error:
        raise BurnishError(Reason.InvalidModel, f"{MODEL} is no SavedModel, or damaged; copy or save it again") from error
    others = [name for name in _OTHER_FORMS if (folder / name).exists()]
    if others:
        raise BurnishError(Reason.InvalidModel, f"beside {MODEL} there is {others[0]}, and only one of them is the model; remove the other")
    if len(found.meta_graphs) != 1 or not found.meta_graphs[0].HasField("object_graph_def"):
        cure = "load it with TensorFlow 2 and save it again: tf.saved_model.save(model, 'folder')"
        raise BurnishError(
            Reason.InvalidModel, f"{MODEL} was not written by TensorFlow 2 (it holds {len(found.meta_graphs)} graphs, or no objects); {cure}"
        )
    return found.meta_graphs[0]


def signature_name(graph: Any, wanted: str | None) -> str:
    """The signature that is served: the wanted one, the only one, or `serving_default`.

    Raises:
        BurnishError: InvalidManifest, listing those there are; InvalidModel where there is none.
    """
    names = sorted(name for name in graph.signature_def if not _INTERNAL.fullmatch(name))
    if not names:
        cure = "save it with one: tf.saved_model.save(model, 'folder', signatures=function), or Keras' model.export('folder')"
        raise BurnishError(Reason.InvalidModel, f"the SavedModel has no signature to serve; {cure}")
    listed = ", ".join(names)
    if wanted is not None and wanted not in names:
        raise BurnishError(Reason.InvalidManifest, f"the model has no signature {wanted!r}; it has {listed}", field="spec.source.signature")
    chosen = wanted or (names[0] if len(names) == 1 else "serving_default")
    if chosen not in names:
        raise BurnishError(
            Reason.InvalidManifest,
            f"the model has several signatures and none is serving_default; set one of {listed}",
            field="spec.source.signature",
        )
    return chosen


def check_operators(graph: Any) -> None:
    """Refuse operators that reach beyond the model, or that TensorFlow doesn't have, wherever in the SavedModel they are.

    Raises:
        BurnishError: UnsafeSource, UnsupportedOperator, naming them.
    """
    from tensorflow.python.framework import op_def_registry

    functions = {function.signature.name for function in graph.graph_def.library.function}
    unsafe, unknown = dict[str, str](), set[str]()
    for place, node in _nodes(graph):
        known = op_def_registry.get(node.op)  # first: a function may not hide behind an operator's name
        if known is None:
            unknown |= {node.op} - functions
        elif _OUTWARD.fullmatch(node.op) or (known.is_stateful and not _STATEFUL.fullmatch(node.op)):
            unsafe.setdefault(node.op, place)
    if unsafe:
        listed = ", ".join(f"{name} (in {unsafe[name]})" for name in sorted(unsafe)[:_LISTED])
        raise BurnishError(
            Reason.UnsafeSource,
            f"the SavedModel has operators that reach beyond the model: {listed}; nothing of it was loaded or run; "
            "save it without them (reading, printing and preparing text belong to the client)",
        )
    if unknown:
        listed = ", ".join(sorted(unknown)[:_LISTED])
        raise BurnishError(Reason.UnsupportedOperator, f"TensorFlow has no operator {listed}; save the model with TensorFlow's own operators")


def _nodes(graph: Any) -> Iterator[tuple[str, Any]]:
    """Every node that may ever run, with where it is.

    Not those of the functions that save and restore a checkpoint, which need files by nature: TensorFlow 2's loader restores by the object graph and
    runs none of them. That holds for functions that nothing else reaches; any other one is judged, whatever it is called.
    """
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    saver = graph.saver_def
    of_saver = {name.partition(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name) if name}
    main = list(graph.graph_def.node)
    others = [node for node in main if node.name not in of_saver]
    named = set(graph.object_graph_def.concrete_functions) | {g.gradient_func for g in graph.graph_def.library.gradient}
    only_saver = _reach(library, [n for n in main if n.name in of_saver], set()) - _reach(library, others, named)
    for node in main:
        yield "the graph", node
    for name, function in library.items():
        if name not in only_saver:
            for node in function.node_def:
                yield f"function {name}", node


def _reach(library: dict[str, Any], nodes: list[Any], names: set[str]) -> set[str]:
    """Functions that the nodes and the named functions call, at any depth."""
    found, pending = set[str](), [*names, *(called for node in nodes for called in _called(node))]
    while pending:
        name = pending.pop()
        if name in library and name not in found:
            found.add(name)
            pending += [called for node in library[name].node_def for called in _called(node)]
    return found


def _called(node: Any) -> Iterator[str]:
    yield node.op
    for value in node.attr.values():
        yield from _named(value)


def _named(value: Any) -> Iterator[str]:
    """Functions that an attribute's value names, also as attributes of functions."""
    for function in (*((value.func,) if value.HasField("func") else ()), *value.list.func):
        yield function.name
        for inner in function.attr.values():
            yield from _named(inner)
