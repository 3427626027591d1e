"""Triton kernels for attention within windows, with a learned position bias and Swin's shift mask.

The scores of a window exist only in registers, and the backward pass recomputes them, as in FlashAttention-2 (Dao
2023). torch's own kernels are too slow for Swin: they read the bias and the mask as one tensor from memory, and write
the gradient of the bias for every window before it can be summed. Here the mask is computed from region numbers, and
the gradient of the bias is summed over the windows in registers.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for this platform, as on Windows
    triton = None

_LOG2_E = 1.4426950408889634
_PADDING = 64
"""The bias is padded to a multiple of this many tokens, so that no block reads past the end and rows are aligned."""


def check_compiler() -> None:
    """Make is_supported() return False, and say so, if Triton cannot compile. It takes a C compiler for that."""
    global triton
    try:
        if triton is not None:
            triton.runtime.driver.active  # compiles a small C library at its first use  # noqa: B018
    except Exception as error:
        [reason, *_] = str(error).strip().splitlines() or [type(error).__name__]
        print(
            f"note: Triton does not work ({reason}), so Swin runs torch's slower attention; a C compiler may be missing"
        )
        triton = None


def is_supported(qkv: Tensor) -> bool:
    """Return whether the kernels support `qkv`, (windows, tokens, 3, heads, channels of a head)."""
    channels = qkv.shape[-1]
    return (
        triton is not None
        and qkv.is_cuda
        and qkv.dtype in (torch.bfloat16, torch.float16)
        and channels in (16, 32, 64)
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
    )


def window_attention(qkv: Tensor, table: Tensor, index: Tensor, regions: Tensor | None) -> Tensor:
    """Compute the attention between the tokens of each window.

    Arguments:
        qkv: queries, keys and values, bf16 or fp16 (windows, tokens, 3, heads, channels of a head).
        table: the learned bias of each relative position, (positions, heads).
        index: the row of `table` for each query and key, int64 (tokens, tokens).
        regions: None, or the number of each token's region and the first and end token of that region in the window,
            int32 (windows of a sample, 3, tokens). Tokens attend only to tokens of their own region.

    Returns (windows, tokens, heads, channels of a head), of qkv's dtype.
    """
    return torch.ops.video_module.window_attention(qkv, table, index, regions)[0]


# Measured on an H100 with windows of 392 tokens and 32 channels per head, in stages 1 and 3. Of 21 variants, these are
# the fastest or at most a tenth slower, with and without shift.
_LAUNCH = {
    "forward": {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
    "backward_q": {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
    "backward_kv": {"BLOCK_Q": 32, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
    "backward_bias": {"BLOCK_Q": 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
}
_PROGRAMS = 2048
"""Fewest programs that sum the gradient of the bias, enough to keep every multiprocessor busy."""


def _padded_bias(table: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of each query and key times log2(e), (heads, padded tokens, padded tokens)."""
    tokens = len(index)
    padded = -(-tokens // _PADDING) * _PADDING
    # Padding must vanish in the softmax. It is finite, because a difference of infinities is NaN.
    lowest = torch.finfo(dtype).min / 2
    bias = torch.full((table.shape[1], padded, padded), lowest, dtype=dtype, device=table.device)
    bias[:, :tokens, :tokens] = (table.t() * _LOG2_E).to(dtype)[:, index]
    return bias


@torch.library.custom_op("video_module::window_attention", mutates_args=())
def _forward(qkv: Tensor, table: Tensor, index: Tensor, regions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the output of window_attention() and the log2 of each softmax's sum, float (windows, heads, tokens)."""
    qkv = qkv.contiguous()
    windows, tokens, _, heads, channels = qkv.shape
    bias = _padded_bias(table, index, qkv.dtype)
    out = qkv.new_empty(windows, tokens, heads, channels)
    log_sum = torch.empty(windows, heads, tokens, dtype=torch.float32, device=qkv.device)
    launch = _LAUNCH["forward"]
    _forward_kernel[(windows * heads * triton.cdiv(tokens, launch["BLOCK_Q"]),)](
        qkv, bias, regions, out, log_sum, *_sizes(qkv, bias, regions), **launch
    )
    return out, log_sum


def _sizes(qkv: Tensor, bias: Tensor, regions: Tensor | None, *counts: int) -> tuple[int, ...]:
    """Return the sizes that all kernels take after their tensors."""
    _, tokens, _, heads, channels = qkv.shape
    is_masked = regions is not None
    return (heads, len(regions) if is_masked else 0, *counts, tokens, bias.shape[1], channels, is_masked)


@_forward.register_fake
def _(qkv, table, index, regions):
    windows, tokens, _, heads, channels = qkv.shape
    out = qkv.new_empty(windows, tokens, heads, channels)
    return out, qkv.new_empty(windows, heads, tokens, dtype=torch.float32)


@torch.library.custom_op("video_module::window_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor,
    index: Tensor,
    regions: Tensor | None,
    out: Tensor,
    log_sum: Tensor,
    learns_table: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `qkv` and `table`; that of `table` is empty unless `learns_table`."""
    grad, qkv = grad.contiguous(), qkv.contiguous()
    windows, tokens, _, heads, _ = qkv.shape
    bias = _padded_bias(table, index, qkv.dtype)
    sizes = _sizes(qkv, bias, regions)
    grad_qkv, delta = torch.empty_like(qkv), torch.empty_like(log_sum)
    launch = _LAUNCH["backward_q"]
    _backward_q_kernel[(windows * heads * triton.cdiv(tokens, launch["BLOCK_Q"]),)](
        qkv, bias, regions, out, grad, log_sum, delta, grad_qkv, *sizes, **launch
    )
    launch = _LAUNCH["backward_kv"]
    _backward_kv_kernel[(windows * heads * triton.cdiv(tokens, launch["BLOCK_K"]),)](
        qkv, bias.mT.contiguous(), regions, grad, log_sum, delta, grad_qkv, *sizes, **launch
    )
    if not learns_table:
        return grad_qkv, table.new_empty(0)

    launch = _LAUNCH["backward_bias"]
    tiles = triton.cdiv(tokens, launch["BLOCK_Q"]) * triton.cdiv(tokens, launch["BLOCK_K"])
    # Each program sums over its share of the windows, and the sums are added afterwards. Atomic additions would come in
    # a different order each run and change the result.
    windows_each = triton.cdiv(windows, triton.cdiv(_PROGRAMS, tiles * heads))
    parts = triton.cdiv(windows, windows_each)
    grad_bias = torch.empty(parts, *bias.shape, dtype=torch.float32, device=qkv.device)
    _backward_bias_kernel[(parts * heads * tiles,)](
        qkv, bias, regions, grad, log_sum, delta, grad_bias,
        *_sizes(qkv, bias, regions, windows, windows_each), **launch,
    )  # fmt: skip
    grad_bias = grad_bias.sum(0)[:, :tokens, :tokens].permute(1, 2, 0).reshape(-1, heads)
    grad_table = torch.zeros_like(table, dtype=torch.float32).index_add_(0, index.reshape(-1), grad_bias)
    return grad_qkv, grad_table.to(table.dtype)


@_backward.register_fake
def _(grad, qkv, table, index, regions, out, log_sum, learns_table):
    return torch.empty_like(qkv), torch.empty_like(table) if learns_table else table.new_empty(0)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs, *output)


def _differentiate(ctx, grad, _):
    learns_table = ctx.needs_input_grad[1]
    qkv, table, *rest = ctx.saved_tensors
    grad_qkv, grad_table = torch.ops.video_module.window_attention_backward(grad, qkv, table, *rest, learns_table)
    return grad_qkv, grad_table if learns_table else None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


if triton is not None:
    # Otherwise Triton would compile variants for counts that are multiples of 16 and for counts of 1.
    _COUNTS = ("heads", "num_regions", "num_windows", "windows_each")

    @triton.jit
    def _place(size: tl.constexpr, heads, BLOCK: tl.constexpr):
        """Return this program's window, head and first token.

        Programs of one window run side by side and share the cache.
        """
        blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
        program = tl.program_id(0)
        return (program // (blocks * heads)).to(tl.int64), program // blocks % heads, program % blocks * BLOCK

    @triton.jit
    def _load(start, rows, stride, size, D: tl.constexpr):
        """Load rows of a matrix (size, D); rows past its end are 0."""
        return tl.load(start + rows[:, None] * stride + tl.arange(0, D)[None, :], mask=rows[:, None] < size, other=0.0)

    @triton.jit
    def _store(start, rows, stride, size, values, D: tl.constexpr):
        places = start + rows[:, None] * stride + tl.arange(0, D)[None, :]
        tl.store(places, values.to(start.dtype.element_ty), mask=rows[:, None] < size)

    @triton.jit
    def _load_regions(regions, rows, size):
        return tl.load(regions + rows, mask=rows < size, other=-1)

    @triton.jit
    def _span(regions, rows, size):
        """Return the range of tokens, first to end, that contains all tokens to which these rows attend."""
        first = tl.min(tl.load(regions + size + rows, mask=rows < size, other=size), 0)
        end = tl.max(tl.load(regions + 2 * size + rows, mask=rows < size, other=0), 0)
        return first, end

    @triton.jit(do_not_specialize=_COUNTS)
    def _forward_kernel(
        qkv, bias, regions, out, log_sum, heads, num_regions,
        tokens: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr,
        BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        window, head, begin = _place(tokens, heads, BLOCK_Q)
        stride = 3 * heads * D
        SCALE: tl.constexpr = D**-0.5 * 1.4426950408889634
        qkv += window * tokens * stride + head * D
        queries = begin + tl.arange(0, BLOCK_Q)
        q = _load(qkv, queries, stride, tokens, D)
        bias += head * PADDED * PADDED + queries[:, None] * PADDED
        first, end = 0, tokens
        if MASKED:
            regions += window % num_regions * 3 * tokens
            q_regions = _load_regions(regions, queries, tokens)
            first, end = _span(regions, queries, tokens)
            first = first // BLOCK_K * BLOCK_K
        highest = tl.full([BLOCK_Q], -1e30, tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)
        result = tl.zeros([BLOCK_Q, D], tl.float32)
        for start in range(first, end, BLOCK_K):
            keys = start + tl.arange(0, BLOCK_K)
            k = _load(qkv + heads * D, keys, stride, tokens, D)
            scores = tl.dot(q, tl.trans(k)) * SCALE + tl.load(bias + keys[None, :]).to(tl.float32)
            if MASKED:
                k_regions = _load_regions(regions, keys, tokens)
                scores = tl.where(q_regions[:, None] == k_regions[None, :], scores, -1e30)
            new_highest = tl.maximum(highest, tl.max(scores, 1))
            rescale = tl.exp2(highest - new_highest)
            weights = tl.exp2(scores - new_highest[:, None])
            total = total * rescale + tl.sum(weights, 1)
            v = _load(qkv + 2 * heads * D, keys, stride, tokens, D)
            result = result * rescale[:, None] + tl.dot(weights.to(v.dtype), v)
            highest = new_highest
        _store(out + window * tokens * heads * D + head * D, queries, heads * D, tokens, result / total[:, None], D)
        row = (window * heads + head) * tokens
        tl.store(log_sum + row + queries, highest + tl.log2(total), mask=queries < tokens)

    @triton.jit(do_not_specialize=_COUNTS)
    def _backward_q_kernel(
        qkv, bias, regions, out, grad, log_sum, delta, grad_qkv, heads, num_regions,
        tokens: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr,
        BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """Compute the gradient of the queries, and delta, each row's sum of grad * out, for the other kernels."""
        window, head, begin = _place(tokens, heads, BLOCK_Q)
        stride = 3 * heads * D
        SCALE: tl.constexpr = D**-0.5 * 1.4426950408889634
        here = window * tokens * stride + head * D
        queries = begin + tl.arange(0, BLOCK_Q)
        q = _load(qkv + here, queries, stride, tokens, D)
        g = _load(grad + window * tokens * heads * D + head * D, queries, heads * D, tokens, D)
        o = _load(out + window * tokens * heads * D + head * D, queries, heads * D, tokens, D)
        row = (window * heads + head) * tokens
        delta_q = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        tl.store(delta + row + queries, delta_q, mask=queries < tokens)
        log_sum_q = tl.load(log_sum + row + queries, mask=queries < tokens, other=0.0)
        bias += head * PADDED * PADDED + queries[:, None] * PADDED
        first, end = 0, tokens
        if MASKED:
            regions += window % num_regions * 3 * tokens
            q_regions = _load_regions(regions, queries, tokens)
            first, end = _span(regions, queries, tokens)
            first = first // BLOCK_K * BLOCK_K
        grad_q = tl.zeros([BLOCK_Q, D], tl.float32)
        for start in range(first, end, BLOCK_K):
            keys = start + tl.arange(0, BLOCK_K)
            k = _load(qkv + here + heads * D, keys, stride, tokens, D)
            v = _load(qkv + here + 2 * heads * D, keys, stride, tokens, D)
            scores = tl.dot(q, tl.trans(k)) * SCALE + tl.load(bias + keys[None, :]).to(tl.float32)
            if MASKED:
                k_regions = _load_regions(regions, keys, tokens)
                scores = tl.where(q_regions[:, None] == k_regions[None, :], scores, -1e30)
            weights = tl.exp2(scores - log_sum_q[:, None])
            grad_scores = weights * (tl.dot(g, tl.trans(v)) - delta_q[:, None])
            grad_q += tl.dot(grad_scores.to(k.dtype), k)
        _store(grad_qkv + here, queries, stride, tokens, grad_q * D**-0.5, D)

    @triton.jit(do_not_specialize=_COUNTS)
    def _backward_kv_kernel(
        qkv, bias, regions, grad, log_sum, delta, grad_qkv, heads, num_regions,
        tokens: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr,
        BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """Compute the gradients of keys and values from scores (keys, queries), so `bias` is passed transposed."""
        window, head, begin = _place(tokens, heads, BLOCK_K)
        stride = 3 * heads * D
        SCALE: tl.constexpr = D**-0.5 * 1.4426950408889634
        here = window * tokens * stride + head * D
        grad += window * tokens * heads * D + head * D
        keys = begin + tl.arange(0, BLOCK_K)
        k = _load(qkv + here + heads * D, keys, stride, tokens, D)
        v = _load(qkv + here + 2 * heads * D, keys, stride, tokens, D)
        row = (window * heads + head) * tokens
        bias += head * PADDED * PADDED + keys[:, None] * PADDED
        first, end = 0, tokens
        if MASKED:
            regions += window % num_regions * 3 * tokens
            k_regions = _load_regions(regions, keys, tokens)
            first, end = _span(regions, keys, tokens)
            first = first // BLOCK_Q * BLOCK_Q
        grad_k = tl.zeros([BLOCK_K, D], tl.float32)
        grad_v = tl.zeros([BLOCK_K, D], tl.float32)
        for start in range(first, end, BLOCK_Q):
            queries = start + tl.arange(0, BLOCK_Q)
            q = _load(qkv + here, queries, stride, tokens, D)
            g = _load(grad, queries, heads * D, tokens, D)
            log_sum_q = tl.load(log_sum + row + queries, mask=queries < tokens, other=0.0)
            delta_q = tl.load(delta + row + queries, mask=queries < tokens, other=0.0)
            scores = tl.dot(k, tl.trans(q)) * SCALE + tl.load(bias + queries[None, :]).to(tl.float32)
            if MASKED:
                q_regions = _load_regions(regions, queries, tokens)
                scores = tl.where(k_regions[:, None] == q_regions[None, :], scores, -1e30)
            weights = tl.exp2(scores - log_sum_q[None, :])
            grad_v += tl.dot(weights.to(g.dtype), g)
            grad_scores = weights * (tl.dot(v, tl.trans(g)) - delta_q[None, :])
            grad_k += tl.dot(grad_scores.to(q.dtype), q)
        _store(grad_qkv + here + heads * D, keys, stride, tokens, grad_k * D**-0.5, D)
        _store(grad_qkv + here + 2 * heads * D, keys, stride, tokens, grad_v, D)

    @triton.jit(do_not_specialize=_COUNTS)
    def _backward_bias_kernel(
        qkv, bias, regions, grad, log_sum, delta, grad_bias, heads, num_regions, num_windows, windows_each,
        tokens: tl.constexpr, PADDED: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr,
        BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    ):  # fmt: skip
        """Compute the gradient of one tile of the bias, summed over a share of the windows."""
        stride = 3 * heads * D
        SCALE: tl.constexpr = D**-0.5 * 1.4426950408889634
        ACROSS: tl.constexpr = (tokens + BLOCK_K - 1) // BLOCK_K
        TILES: tl.constexpr = (tokens + BLOCK_Q - 1) // BLOCK_Q * ACROSS
        program = tl.program_id(0)
        part, head, tile = program // (TILES * heads), program // TILES % heads, program % TILES
        queries = tile // ACROSS * BLOCK_Q + tl.arange(0, BLOCK_Q)
        keys = tile % ACROSS * BLOCK_K + tl.arange(0, BLOCK_K)
        place = head * PADDED * PADDED + queries[:, None] * PADDED + keys[None, :]
        bias_tile = tl.load(bias + place).to(tl.float32)
        total = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
        first = (part * windows_each).to(tl.int64)
        for step in range(tl.minimum(windows_each, num_windows - part * windows_each)):
            window = first + step
            here = qkv + window * tokens * stride + head * D
            q = _load(here, queries, stride, tokens, D)
            k = _load(here + heads * D, keys, stride, tokens, D)
            v = _load(here + 2 * heads * D, keys, stride, tokens, D)
            g = _load(grad + window * tokens * heads * D + head * D, queries, heads * D, tokens, D)
            row = (window * heads + head) * tokens
            log_sum_q = tl.load(log_sum + row + queries, mask=queries < tokens, other=0.0)
            delta_q = tl.load(delta + row + queries, mask=queries < tokens, other=0.0)
            scores = tl.dot(q, tl.trans(k)) * SCALE + bias_tile
            if MASKED:
                own = regions + window % num_regions * 3 * tokens
                q_regions, k_regions = _load_regions(own, queries, tokens), _load_regions(own, keys, tokens)
                scores = tl.where(q_regions[:, None] == k_regions[None, :], scores, -1e30)
            weights = tl.exp2(scores - log_sum_q[:, None])
            total += weights * (tl.dot(g, tl.trans(v)) - delta_q[:, None])
        tl.store(grad_bias + part.to(tl.int64) * heads * PADDED * PADDED + place, total)
