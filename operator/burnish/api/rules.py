"""The rules that the apiserver checks at apply (CEL): what a schema can't say, and what it can say but not in words.

Whoever applies a manifest reads the refusal then and there, so each rule's message names what is wrong and the cure, as the models' own messages do.
Rules between fields stand in a table under the name of the model that holds the fields, each the twin of a validator there; those of one text (a
duration, a name) are made from its pattern. Two are the cluster's own: `file:` is no source there, and a manifest on a cluster holds no credentials.

The apiserver bounds what all rules together may cost, from the bounds of lists and texts; a rule on an unbounded one is refused with the CRD.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic.alias_generators import to_camel

from burnish import names
from burnish.api import complaints, scalars, uris
from burnish.api.schema import Schema
from burnish.plugins import registry
from burnish.plugins.base import SourceOptions, TrainingPass

_MESSAGE_LIMIT = 2048


class Rule(NamedTuple):
    """A claim about one object that has to hold.

    `field` is the path of the field to change, from that object (`.constraints.score`). `told` is a CEL expression for the message, where it shows
    values; `message` stands in where that can't be computed.
    """

    expression: str
    message: str
    field: str = ""
    told: str = ""

    def render(self) -> dict[str, Any]:
        """As an entry of `x-kubernetes-validations`."""
        made = {"rule": self.expression, "message": self.message[:_MESSAGE_LIMIT]}
        if self.told:
            made["messageExpression"] = self.told
        return {**made, "fieldPath": self.field} if self.field else made


_LOADS = "(has(self.measurement) && has(self.measurement.loads) ? self.measurement.loads.map(l, l.name) : ['single'])"
_PRIMARY = "(has(self.serving) && has(self.serving.primary) ? self.serving.primary : self.targets[0].name)"
_CALIBRATED = "(has(self.datasets) && has(self.datasets.calibration))"
_STATIC = "exists(p, has(p.quantize) && has(p.quantize.mode) && p.quantize.mode == 'Static' && (!has(p.quantize.precision) || p.quantize.precision == 'INT8'))"
_CONTROLLED = "exists(p, has(p.quantize) && has(p.quantize.accuracyControl))"
_DECODED = "(!has(self.datasets) || !has(self.datasets.evaluation) || !(self.datasets.evaluation.metric in ['MSE', 'MAE', 'CosineSimilarity']))"
_WITH_GPUS = [name for name, runtime in registry.runtimes().items() if runtime.has_gpus]
_NOT_OFFERED = (
    (
        "OpenVINO",
        "exists(p, has(p.quantize) && has(p.quantize.calibrationMethod) && p.quantize.calibrationMethod == 'Entropy')",
        "calibrationMethod Entropy",
    ),
    ("ONNXRuntime", _CONTROLLED, "quantize accuracyControl"),
)
"""What a runtime does not have: its name, the CEL test of a list of passes, and how that is called."""
_TRAINERS = {name: plugin.config for name, plugin in registry.passes().items() if isinstance(plugin, TrainingPass)}


def _trains(name: str) -> str:
    """CEL: whether a pass `p` of this type trains; one that trains only afterwards may be told not to."""
    field = name[0].lower() + name[1:]
    spared = f" && !(has(p.{field}) && has(p.{field}.finetune) && has(p.{field}.finetune.epochs) && p.{field}.finetune.epochs == 0)"
    return f"(p.type == '{name}'{spared if 'finetune' in _TRAINERS[name].model_fields else ''})"


_SHRINKING = ", ".join(f"'{name}'" for name, plugin in registry.passes().items() if isinstance(plugin, TrainingPass) and plugin.shrinks)
_PLACED = (
    Rule(
        "!has(self.passes) || [0, 1, 2, 3, 4, 5, 6].all(i, i >= self.passes.size() - 1 || self.passes[i].type != 'QuantizeAwareTrain')",
        "holds one after QuantizeAwareTrain, which leaves a quantized model that nothing changes any more; put QuantizeAwareTrain last",
        ".passes",
    ),
    Rule(
        "!has(self.passes) || [0, 1, 2, 3, 4, 5, 6, 7].all(i, i >= self.passes.size() || self.passes[i].type != 'Distill'"
        " || (has(self.passes[i].distill) && has(self.passes[i].distill.student))"
        f" != [0, 1, 2, 3, 4, 5, 6].exists(j, j < i && self.passes[j].type in [{_SHRINKING}]))",
        "holds a Distill without a student to teach, or with one of its own after a pass that made a smaller model; "
        "give it student: {widthPercent: 50}, or put Prune before it, not both",
        ".passes",
    ),
)
_ALPHA = f"!has(self.alpha) || !self.alpha.matches(r'{scalars.DECIMAL_PATTERN}') || double(self.alpha)"
_TEMPERATURE = Rule(
    f"!has(self.temperature) || !self.temperature.matches(r'{scalars.DECIMAL_PATTERN}')"
    " || (double(self.temperature) > 0.0 && double(self.temperature) <= 1000.0)",
    'is no temperature; write a decimal above 0, such as temperature: "4"',
    ".temperature",
)
_LEARNING_RATE = Rule(
    f"!has(self.learningRate) || !self.learningRate.matches(r'{scalars.DECIMAL_PATTERN}')"
    " || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1000.0)",
    'is no learning rate; write a decimal above 0, such as learningRate: "0.001"',
    ".learningRate",
)
_TRAINED = "(has(self.datasets) && has(self.datasets.training))"
_TRAINING = f"exists(p, {' || '.join(map(_trains, _TRAINERS))})"
_NAMED = ", ".join(f"'{name}'" for name in _TRAINERS)
_TRAINING_FIRST = Rule(
    "!has(self.passes) || [1, 2, 3, 4, 5, 6, 7].all(i, i >= self.passes.size()"
    f" || !(self.passes[i].type in [{_NAMED}]) || self.passes[i - 1].type in [{_NAMED}])",
    f"holds one that trains weights ({', '.join(_TRAINERS)}) after one that works on the finished graph, which it would undo; put those that train first",
    ".passes",
)
_ONE_QUANTIZE = Rule(
    "!has(self.passes) || self.passes.filter(p, p.type == 'Quantize').size() <= 1",
    "holds a second Quantize, and a quantized graph is not quantized again; keep one entry (mode: Auto tries several ways)",
    ".passes",
)
_TOGETHER = (
    Rule(
        "!has(self.passes) || self.passes.filter(p, p.type == 'ShareWeights').size() <= 1",
        "holds a second ShareWeights, and shared values are not shared again; keep one entry",
        ".passes",
    ),
    Rule(
        "!has(self.passes) || !self.passes.exists(p, p.type == 'ShareWeights') || !self.passes.exists(p, p.type == 'Quantize')",
        "holds ShareWeights and Quantize, and the second would undo the first; keep one of the two",
        ".passes",
    ),
    Rule(
        "!has(self.passes) || self.passes.filter(p, p.type == 'Factorize').size() <= 1",
        "holds a second Factorize, and factors of factors save nothing that one lower rank would not; keep one entry",
        ".passes",
    ),
)
_CPU = "(has(self.cpu) ? string(self.cpu) : '1')"
_DIFFER = "self.all(a, self.exists_one(b, b.name == a.name))"

_UNKNOWN_PRIMARY = "'spec.targets has no ' + self.serving.primary + '; use the name of one of those there'"


def _options_belong_to_formats() -> list[Rule]:
    """What only some formats read stands with them, or where the format is detected."""
    made = []
    for option in SourceOptions.model_fields:
        takers = [name for name, plugin in registry.formats().items() if option in plugin.options]
        field, listed = to_camel(option), ", ".join(f"'{name}'" for name in takers)
        made.append(
            Rule(
                f"!has(self.{field}) || !has(self.format) || self.format in [{listed}]",
                f"belongs to format {' or '.join(takers)}; remove it or change format",
                f".{field}",
            )
        )
    return made


_BY_MODEL: dict[str, tuple[Rule, ...]] = {
    "OptimizedModel": (
        Rule(
            f"self.metadata.name.matches(r'{names.NAME_PATTERN}')",
            "is not a name of lower-case letters, digits and '-' that begins with a letter (it becomes a Service's); write for example name: digits",
            ".metadata.name",
        ),
    ),
    "Spec": (
        Rule(
            f"!has(self.constraints) || !has(self.constraints.latency) || self.constraints.latency.all(x, x.load in {_LOADS})",
            "names a load that spec.measurement.loads does not have; use one of them or add it there",
            ".constraints.latency",
        ),
        Rule(
            "!has(self.constraints) || !has(self.constraints.score) || (has(self.datasets) && has(self.datasets.evaluation))",
            "needs spec.datasets.evaluation; add evaluation data with a metric, or remove the limit",
            ".constraints.score",
        ),
        Rule(
            "!has(self.serving) || !has(self.serving.primary) || self.targets.exists(t, t.name == self.serving.primary)",
            "spec.targets has no target of this name; use one of theirs",
            ".serving.primary",
            _UNKNOWN_PRIMARY,
        ),
        Rule(
            f"self.targets.all(t, !has(t.replicas) || t.name != {_PRIMARY})",
            "replicas belongs to targets that are not the primary; write spec.serving.replicas instead",
            ".targets",
        ),
        Rule(
            f"{_CALIBRATED} || !has(self.passes) || !self.passes.{_STATIC} || self.targets.all(t, has(t.passes))",
            "quantize mode Static needs spec.datasets.calibration; add calibration data, or write mode: Auto or Dynamic",
            ".passes",
        ),
        Rule(
            f"{_CALIBRATED} || !self.targets.exists(t, has(t.passes) && t.passes.{_STATIC})",
            "quantize mode Static in a target's passes needs spec.datasets.calibration; add calibration data, or write mode: Auto or Dynamic",
            ".targets",
        ),
        Rule(
            f"{_CALIBRATED} || !has(self.passes) || !self.passes.{_CONTROLLED} || self.targets.all(t, has(t.passes))",
            "quantize accuracyControl needs spec.datasets.calibration; add calibration data, or remove it",
            ".passes",
        ),
        Rule(
            f"{_CALIBRATED} || !self.targets.exists(t, has(t.passes) && t.passes.{_CONTROLLED})",
            "quantize accuracyControl in a target's passes needs spec.datasets.calibration; add calibration data, or remove it",
            ".targets",
        ),
        Rule(
            f"{_DECODED} || !has(self.passes) || !self.passes.{_CONTROLLED} || self.targets.all(t, has(t.passes))",
            "accuracyControl asks how many answers change, and metrics MSE, MAE and CosineSimilarity decode none; use metric: Agreement, or remove it",
            ".passes",
        ),
        Rule(
            f"{_DECODED} || !self.targets.exists(t, has(t.passes) && t.passes.{_CONTROLLED})",
            "accuracyControl asks how many answers change, and metrics MSE, MAE and CosineSimilarity decode none; use metric: Agreement, or remove it",
            ".targets",
        ),
        *(
            Rule(
                f"!has(self.passes) || !self.passes.{test} || self.targets.all(t, has(t.passes) || t.runtime != '{runtime}')",
                f"{runtime} does not offer {what}; remove it, or give such a target passes of its own (targets[].passes)",
                ".passes",
            )
            for runtime, test, what in _NOT_OFFERED
        ),
        _ONE_QUANTIZE,
        _TRAINING_FIRST,
        *_PLACED,
        Rule(
            f"{_TRAINED} || !has(self.passes) || !self.passes.{_TRAINING} || self.targets.all(t, has(t.passes))",
            "holds one that trains the model and there is no data for it; set spec.datasets.training, or write finetune: {epochs: 0} where it has that",
            ".passes",
        ),
        Rule(
            f"{_TRAINED} || !self.targets.exists(t, has(t.passes) && t.passes.{_TRAINING})",
            "holds a target whose passes train the model and there is no data for it; set spec.datasets.training, or write finetune: {epochs: 0} where it has that",
            ".targets",
        ),
        *_TOGETHER,
    ),
    "Source": (
        *_options_belong_to_formats(),
        Rule(
            "!has(self.format) || self.format != 'StateDict' || has(self.architecture)",
            "a state dict holds weights only; name what they belong to, such as architecture: torchvision.models.resnet18",
            ".architecture",
        ),
        Rule(
            "!has(self.format) || self.format != 'StateDict' || !has(self.architecture) ||"
            " self.architecture.matches('^(torchvision[.]models|timm|transformers)[.]')",
            "is not in torchvision.models, timm, transformers, and no other code is run; export a model of your own to ONNX",
            ".architecture",
        ),
        Rule(
            "!has(self.format) || !(self.format in ['ExportedProgram', 'TorchScript']) || (has(self.trusted) && self.trusted)",
            "loading such a file runs code of its author's; set trusted: true if you trust that author, or save the model as safetensors or ONNX",
            ".trusted",
        ),
    ),
    "Target": (
        _ONE_QUANTIZE,
        _TRAINING_FIRST,
        *_PLACED,
        *_TOGETHER,
        Rule(
            f"!has(self.accelerator) || !has(self.accelerator.type) || self.accelerator.type != 'GPU' || self.runtime in {_WITH_GPUS}",
            f"such a runtime computes on CPUs here; use runtime: {' or '.join(_WITH_GPUS)} for a GPU, or accelerator type: CPU",
            ".accelerator.type",
        ),
        *(
            Rule(
                f"self.runtime != '{runtime}' || !has(self.passes) || !self.passes.{test}",
                f"{runtime} does not offer {what}; remove it",
                ".passes",
            )
            for runtime, test, what in _NOT_OFFERED
        ),
    ),
    "Resize": (
        Rule(
            "has(self.shortestSide) ? !has(self.width) && !has(self.height) : has(self.width) && has(self.height)",
            "a size is width and height, or shortestSide alone; write one of the two",
            ".shortestSide",
        ),
    ),
    "Datasets": (
        Rule(
            "!has(self.preprocess) || has(self.calibration) || has(self.evaluation) || has(self.training)",
            "stands without data that it could prepare; add evaluation, calibration or training data, or remove it",
            ".preprocess",
        ),
    ),
    "Preprocess": (
        *(
            Rule(
                f"!has(self.{name}) || self.{name}.size() in (has(self.colour) && self.colour == 'Gray' ? [0, 1] : [0, 1, 3])",
                "has another number of values than colour has channels; write one per channel",
                f".{name}",
            )
            for name in ("mean", "std")
        ),
        Rule("!has(self.std) || self.std.all(s, double(s) != 0.0)", "a standard deviation of 0 can't be divided by; correct it", ".std"),
        Rule(
            "!has(self.dataType) || self.dataType != 'UINT8'"
            " || (!has(self.scale) && (!has(self.mean) || self.mean.size() == 0) && (!has(self.std) || self.std.size() == 0))",
            "UINT8 holds the values as they are; remove scale, mean and std, or write dataType: FP32",
            ".dataType",
        ),
        Rule(
            "!has(self.type) || self.type != 'FromHuggingFace' || !(has(self.resize) || has(self.crop) || has(self.scale)"
            " || (has(self.interpolation) && self.interpolation != 'Bilinear') || (has(self.colour) && self.colour != 'RGB')"
            " || (has(self.mean) && self.mean.size() > 0) || (has(self.std) && self.std.size() > 0))",
            "FromHuggingFace takes these values from the source; leave only layout and dataType beside it, or write type: Explicit",
            ".type",
        ),
    ),
    "Input": (
        Rule("!has(self.shape) || self.shape.all(n, n != 0)", "holds a 0; write the size, or -1 where it varies", ".shape"),
        Rule(
            "!has(self.shape) || !has(self.dynamic) || self.dynamic.all(d, d.axis < self.shape.size())",
            "names an axis that is outside shape; axes count from 0",
            ".dynamic",
        ),
        Rule(
            "!has(self.shape) || !has(self.dynamic) || self.dynamic.all(d, d.axis >= self.shape.size() || self.shape[d.axis] == -1)",
            "names an axis that has a fixed size in shape; write -1 there",
            ".dynamic",
        ),
    ),
    "DynamicAxis": (
        Rule("(has(self.min) ? self.min : 1) <= self.opt && self.opt <= self.max", "min <= opt <= max does not hold; order the three values", ".opt"),
        Rule(
            "!has(self.multipleOf) || (self.opt % self.multipleOf == 0 && self.max % self.multipleOf == 0)",
            "opt and max must be multiples of it; change one of the three",
            ".multipleOf",
        ),
    ),
    "IntegerRange": (Rule("self.min <= self.max", "exceeds max; swap them", ".min"),),
    "Evaluation": (
        Rule(
            "!(self.metric in ['Accuracy', 'F1']) || !has(self.decode) || self.decode == 'ArgMax'",
            "metrics Accuracy and F1 need decode: ArgMax; write that, or use metric: Agreement",
            ".decode",
        ),
        Rule(
            "!(self.metric in ['MSE', 'MAE', 'CosineSimilarity']) || !has(self.decode)",
            "metrics MSE, MAE and CosineSimilarity decode nothing; remove it, or use metric: Agreement",
            ".decode",
        ),
        Rule(
            "!has(self.threshold) || (has(self.decode) && self.decode == 'Threshold')",
            "belongs to decode: Threshold; write that, or remove it",
            ".threshold",
        ),
        Rule(
            "!has(self.agreementCosine) || (has(self.decode) && self.decode == 'Cosine')",
            "belongs to decode: Cosine; write that, or remove it",
            ".agreementCosine",
        ),
        Rule(
            f"!has(self.agreementCosine) || !self.agreementCosine.matches(r'{scalars.DECIMAL_PATTERN}') || double(self.agreementCosine) <= 1.0",
            'no cosine exceeds 1; write a decimal between 0 and 1, such as agreementCosine: "0.99"',
            ".agreementCosine",
        ),
    ),
    "QuantizeConfig": (
        Rule(
            "!has(self.precision) || self.precision == 'INT8' || !has(self.mode) || self.mode == 'Auto'",
            "mode belongs to precision INT8; remove mode, or set precision: INT8",
            ".mode",
        ),
        Rule(
            "!has(self.accuracyControl) || ((!has(self.precision) || self.precision == 'INT8') && (!has(self.mode) || self.mode != 'Dynamic'))",
            "accuracyControl belongs to static INT8; remove it, or set precision: INT8 and mode: Auto or Static",
            ".accuracyControl",
        ),
        Rule(
            "!has(self.calibrationMethod) || self.calibrationMethod == 'MinMax' || "
            "((!has(self.precision) || self.precision == 'INT8') && (!has(self.mode) || self.mode != 'Dynamic'))",
            "calibrationMethod belongs to static INT8; remove it, or set precision: INT8 and mode: Auto or Static",
            ".calibrationMethod",
        ),
        Rule(
            "!has(self.blockSize) || (has(self.precision) && self.precision == 'INT4')",
            "blockSize belongs to precision: INT4; remove it, or set precision: INT4",
            ".blockSize",
        ),
    ),
    "PruneConfig": (
        Rule(
            "!has(self.importance) || self.importance == 'L2' || !has(self.method) || self.method == 'Structured'",
            "importance belongs to method: Structured; remove it or change method",
            ".importance",
        ),
        Rule(
            "!has(self.steps) || self.steps == 1 || !has(self.finetune) || !has(self.finetune.epochs) || self.finetune.epochs > 0",
            "trains nothing (epochs: 0), so there is nothing between the steps; write steps: 1, or some epochs",
            ".finetune",
        ),
    ),
    "FromOriginal": (
        Rule(f"{_ALPHA} <= 1.0", 'is more than the whole; write a decimal between 0 and 1, such as alpha: "0.1"', ".alpha"),
        _TEMPERATURE,
    ),
    "DistillConfig": (
        Rule(
            f"{_ALPHA} < 1.0",
            'leaves nothing to learn from the original; write a decimal below 1, such as alpha: "0.1", or use type: Finetune',
            ".alpha",
        ),
        _TEMPERATURE,
        _LEARNING_RATE,
    ),
    "Student": (
        Rule(
            "has(self.source) || has(self.architecture) || has(self.widthPercent) || has(self.depthPercent)",
            "says nothing of the student; write widthPercent, depthPercent, architecture or source, or leave student out",
        ),
        Rule(
            "!(has(self.source) || has(self.architecture)) || !(has(self.widthPercent) || has(self.depthPercent))",
            "has an architecture or a source of its own, and a cut of the original; keep one of them",
        ),
        Rule(
            "!has(self.source) || !has(self.source.format) || self.source.format != 'StateDict' || has(self.architecture)",
            "has a source that holds weights only; name what they belong to, such as architecture: torchvision.models.resnet18",
        ),
        Rule(
            "!has(self.source) || !has(self.source.format) || self.source.format == 'StateDict' || !has(self.architecture)",
            "has an architecture, which belongs to a source of format StateDict; remove it or change format",
        ),
        Rule(
            "has(self.architecture) || !has(self.architectureArgs) || self.architectureArgs.size() == 0",
            "has architectureArgs and no architecture; add it, or remove them",
        ),
        Rule(
            "!has(self.architecture) || self.architecture.matches('^(torchvision[.]models|timm|transformers)[.]')",
            "is not in torchvision.models, timm, transformers, and no other code is run; make the student by widthPercent or depthPercent",
            ".architecture",
        ),
        Rule(
            "!has(self.architectureArgs) || self.architectureArgs.all(a, self.architectureArgs.exists_one(b, b.name == a.name))",
            "names an argument twice; keep one",
            ".architectureArgs",
        ),
    ),
    "StudentSource": (
        Rule(
            "!has(self.task) || !has(self.format) || self.format == 'HuggingFace'",
            "belongs to format HuggingFace; remove it or change format",
            ".task",
        ),
    ),
    **dict.fromkeys(("TrainingOptions", "FinetuneConfig", "QuantizeAwareTrainConfig"), (_LEARNING_RATE,)),
    "FactorizeConfig": (
        Rule(
            "[has(self.rank), has(self.energyPercent), has(self.macsPercent)].filter(b, b).size() <= 1",
            "rank, energyPercent and macsPercent each decide the ranks; keep one of the three",
        ),
    ),
    "ShareWeightsConfig": (
        Rule(
            "!has(self.groupSize) || (has(self.granularity) && self.granularity == 'Group')",
            "groupSize belongs to granularity: Group; remove it, or set granularity: Group",
            ".groupSize",
        ),
    ),
    "AccuracyControl": (
        Rule(
            f"!self.maxDrop.matches(r'{scalars.DECIMAL_PATTERN}') || double(self.maxDrop) < 1.0",
            'would let every answer change; write a decimal below 1, such as maxDrop: "0.01"',
            ".maxDrop",
        ),
    ),
    "Resources": (
        Rule(
            "!has(self.cpu) || !isQuantity(string(self.cpu)) || (quantity(string(self.cpu)).compareTo(quantity('10m')) >= 0"
            " && quantity(string(self.cpu)).compareTo(quantity('1024')) <= 0)",
            'so many cores can\'t be held; write a quantity between 10m and 1024, such as cpu: "1"',
            ".cpu",
        ),
        Rule(
            "!has(self.memory) || !isQuantity(string(self.memory)) || quantity(string(self.memory)).compareTo(quantity('64Mi')) >= 0",
            "is too little for Triton itself; write at least 64Mi, such as memory: 2Gi",
            ".memory",
        ),
        Rule(
            f"!has(self.cpuRequest) || !isQuantity(string(self.cpuRequest)) || !isQuantity({_CPU}) ||"
            f" (quantity(string(self.cpuRequest)).compareTo(quantity('0')) > 0 && quantity(string(self.cpuRequest)).compareTo(quantity({_CPU})) <= 0)",
            "is not between 0 and the limit cpu; lower it, or leave it out",
            ".cpuRequest",
        ),
    ),
    "Accelerator": tuple(
        Rule(
            f"!has(self.{field}) || (has(self.type) && self.type == 'GPU')",
            "belongs to type: GPU, but type is CPU; remove it or change type",
            f".{field}",
        )
        for field in ("product", "count", "resource")
    ),
    "Toleration": (
        Rule(
            "has(self.value) == (!has(self.operator) || self.operator == 'Equal')",
            "stands with operator: Equal, and only there; add it or write operator: Exists",
            ".value",
        ),
    ),
    "EquivalenceLimit": (
        Rule(
            f"!self.minCosine.matches(r'{scalars.DECIMAL_PATTERN}') || double(self.minCosine) <= 1.0",
            'such a cosine is out of reach; write a decimal between 0 and 1, such as minCosine: "0.99"',
            ".minCosine",
        ),
    ),
    "DynamicBatching": (
        Rule(
            "!has(self.preferredBatchSizes) || self.preferredBatchSizes.all(n, n <= (has(self.maxBatchSize) ? self.maxBatchSize : 8))",
            "holds a size above maxBatchSize (8 where it is not written); raise that, or remove the size",
            ".preferredBatchSizes",
        ),
    ),
}
_URI = (
    Rule(
        "!self.matches('^(?i)file:')",
        "is a file of one machine, and a cluster has many; put it into a bucket (s3:, gs:, az:), on a volume (pvc:) or on a server (https:)",
    ),
    Rule("!self.matches('^(?i)http:')", "is not encrypted, so anyone on the way can change it; write https:"),
    Rule(
        "self == '' || self.matches('^(?i)(https|s3|gs|az|hf|pvc|file|http):')",
        "does not begin with a scheme that is known here; write s3://bucket/path (gs: and az: alike), https://host/path, hf://org/name or pvc://claim/path",
    ),
    Rule(
        "!self.matches('^[A-Za-z][A-Za-z0-9+.-]*:/*[^/?#]*@')",
        "carries credentials, and a manifest is no place for them; remove the part before @, and name a Secret in spec.source.secretRef",
    ),
    Rule("!self.matches('^(?i)s3:') || self.matches('^(?i)s3://[^/?#]+/+[^/?#][^?#]*$')", "names no object; write s3://bucket/path/to/model.onnx"),
    Rule(
        "!self.matches('^(?i)(gs|az):') || self.matches('^(?i)(gs|az)://[^/?#]+/+[^/?#][^?#]*$')",
        "names no object; write gs://bucket/path/to/model.onnx, or az://container/path/to/model.onnx",
    ),
    Rule(
        r"!self.matches('^(?i)hf:') || self.matches(self.matches('^(?i)hf://datasets/')"
        r" ? r'^(?i)hf://datasets/[\w.-]+/[\w.-]+(@[^/?#\s]+)?/+[^/?#][^?#]*$' : r'^(?i)hf://[\w.-]+/[\w.-]+(@[^/?#\s]+)?(/[^?#]*)?$')",
        "names no repository; write hf://org/name, hf://org/name@revision/path, or hf://datasets/org/name/path for data",
    ),
    Rule(
        f"!self.matches(r'{uris.HUB_PAGE}')",
        "is a page of the Hugging Face Hub, and no file; write hf://org/name (data: hf://datasets/org/name/path)",
    ),
    Rule("!self.matches('^(?i)pvc:') || self.matches('^(?i)pvc://[^/?#]+/+[^/]')", "names no file on a volume; write pvc://claim/path/to/model.onnx"),
    Rule(
        r"!self.matches('^(?i)https:') || self.matches(r'^(?i)https://[^/?#\s]+([/?#]\S*)?$')",
        "is not a valid URI; write https://host/path, and percent-encode what is not plain text",
    ),
)


def of_object(node: Schema) -> list[Rule]:
    """Rules between the fields of an object, by the model that the flattened schema says it is of."""
    model = node.get("x-model", "")
    return [*_BY_MODEL.get(model, ()), *(_options_match_type() if model == "PassEntry" else ())]


def of_list(node: Schema, keys: list[str]) -> list[Rule]:
    """Entries of a keyed list have different keys. The list's own type says so too, but not what to do about it."""
    if keys == ["name"]:
        return [Rule(_DIFFER, "two entries have the same name; give each its own")]
    if keys == ["axis"]:
        return [Rule(_DIFFER.replace("name", "axis"), "names an axis twice; keep one entry per axis")]
    return []


def of_scalar(name: str, node: Schema, *, in_list: bool = False) -> list[Rule]:
    """Rules of one text or quantity, from its pattern; none where no words are known for it."""
    pattern = node.get("pattern", "")
    example = {"examples": ["s3://models/model.onnx"]} if name == "uri" else {}
    words = complaints.about_pattern(name, {**node, **example}, in_list=in_list)
    if not words:
        return []
    matches = f"self.matches(r'{pattern}')"
    if node.get("x-kubernetes-int-or-string"):
        return [Rule(f"type(self) == int ? self >= 0 : {matches}", words)]
    made = [Rule(f"self == '' || {matches}" if node.get("minLength") else matches, words)]
    if pattern == scalars.DURATION_PATTERN:
        made.append(Rule(f"!{matches} || self.matches('[1-9]')", "is no time at all; write a duration longer than zero, for example 90s"))
    return [*made, *_URI] if name == "uri" else made


def _options_match_type() -> list[Rule]:
    """The options of a pass stand under its own name. With one pass only there are no others."""
    known = registry.passes() if len(registry.passes()) > 1 else ()
    fields = {name: name[0].lower() + name[1:] for name in known}
    return [
        Rule(f"!has(self.{field}) || self.type == '{name}'", f"belongs to type: {name}, but type is another; remove it or change type", f".{field}")
        for name, field in fields.items()
    ]
