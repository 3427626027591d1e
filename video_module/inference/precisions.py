"""Convert an fp32 ONNX graph to fp16 and int8."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_ir
from onnx_ir.passes import common as passes

# Convolutions with fewer weights than this are not worth storing in 8 bits. MViT's poolings have 2,592.
_MIN_STORED_CONVOLUTION = 2**12

# Operators whose results fp16 would round or overflow first: sums over many values, and exponentials.
_KEPT_IN_FP32 = ("LayerNormalization", "Softmax", "ReduceMean")


def in_precision(fp32: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of the graph in one of PRECISIONS."""
    return {"fp32": copy.deepcopy, "fp16": to_fp16, "int8": to_int8}[precision](fp32)


def to_fp16(fp32: onnx.ModelProto) -> onnx.ModelProto:
    """Convert to half precision, except where that is too coarse. Inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Everything before the first layer normalises pixels from 0..255, and fp16 is too coarse for that.
    nodes = list(fp32.graph.node)
    first_layer = next(index for index, node in enumerate(nodes) if node.op_type in ("Conv", "MatMul", "Gemm"))
    proto = convert_float_to_float16(
        copy.deepcopy(fp32),
        keep_io_types=True,
        op_block_list=list(_KEPT_IN_FP32),
        node_block_list=[node.name for node in nodes[:first_layer]],
    )
    # The converter appends its casts at the end, but ONNX requires nodes in topological order. It also leaves outdated
    # types for the values that it kept in fp32; once these are deleted, types are inferred again.
    del proto.graph.value_info[:]
    model = onnx_ir.from_proto(proto)
    passes.TopologicalSortPass()(model)
    return onnx_ir.to_proto(model)


def to_int8(fp32: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weights of MatMul, Gemm and Conv in 8 bits, with one scale per channel."""
    # Matrix products are also computed in 8 bits, with activations quantised on the fly. Convolutions are computed in
    # fp32 from 8-bit weights, which makes the file smaller but not faster. With ConvInteger, which computes them in 8
    # bits, r3d_18 was no faster on AVX2 either, and its logits were further from torch's.
    #
    # With reduce_range, weights use seven of their eight bits. Products of full 8-bit weights overflow the 16-bit sums
    # of processors without VNNI, so the file would give other logits there than on the machine that checked it.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder:
        quantised = Path(folder) / "int8.onnx"
        proto = copy.deepcopy(fp32)
        # Stored shapes are deleted and inferred again, since older versions of onnxruntime trip over those of
        # transposed weights. The property marks the graph as preprocessed; without it, onnxruntime logs the advice to
        # preprocess it.
        del proto.graph.value_info[:]
        onnx.helper.set_model_props(proto, {"onnx.quant.pre_process": "onnxruntime.quant"})
        # Matrices with more than two axes (MViT's positions, which differ from row to row) are small, and have no 8-bit
        # kernel.
        num_axes = {tensor.name: len(tensor.dims) for tensor in proto.graph.initializer}
        matrices = [node for node in proto.graph.node if node.op_type == "MatMul"]
        quantize_dynamic(
            proto,
            quantised,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=[node.name for node in matrices if num_axes.get(node.input[1], 0) > 2],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(str(quantised))
    _store_convolutions_in_8_bits(proto)
    return proto


def _store_convolutions_in_8_bits(proto: onnx.ModelProto) -> None:
    """Store the weights of convolutions in 8 bits, except small ones and the first, which sees the pixels."""
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    names = [node.input[1] for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]
    stored = []
    for name in dict.fromkeys(names[1:]):
        weight = onnx.numpy_helper.to_array(constants[name])
        if weight.size < _MIN_STORED_CONVOLUTION:
            continue
        scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
        # A channel of zeros works with any scale except 0.
        scale = np.maximum(scale, np.finfo(np.float32).tiny) / 127
        levels = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        graph.initializer.remove(constants[name])
        for suffix, value in (("_8bit", levels), ("_scale", scale)):
            graph.initializer.append(onnx.numpy_helper.from_array(value, name + suffix))
        stored.append(
            onnx.helper.make_node("DequantizeLinear", [f"{name}_8bit", f"{name}_scale"], [name], f"{name}_fp32", axis=0)
        )
    # At the front, since ONNX requires nodes in topological order.
    nodes = [*stored, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
