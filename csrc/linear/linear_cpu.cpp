#include "linear/linear_cpu.h"

#include <cstdlib>
#include <memory>
#include <new>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/cpu_variant.h"
#include "core/shape.h"

namespace halfops::linear::cpu {
namespace {

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

// Does the CPU multiply bf16 (AVX512-BF16 or AMX)? Then torch's bf16 product is several times its fp32 one.
bool has_bf16_instructions() {
#if defined(__x86_64__)
    static const bool found = [] {
        unsigned a = 0, b = 0, c = 0, d = 0;
        const bool amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 22)) != 0;
        const bool avx512 = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;
        return amx || avx512;
    }();
    return found;
#else
    return false;
#endif
}

// bf16 operands go to torch's bf16 product as they are, four times as fast, when the epilogue allows it. That product
// adds one thing (a bias or a c) and rounds once: at the pre-activation, where this epilogue rounds too, or at the end.
// For the activation gradient, gated or not, it is one rounding more than ours, as in torch's two ops. A bias and a c
// without an activation between them, a factor, another dtype, a CPU without such instructions: those need the fp32
// accumulator and are widened.
bool use_bf16_product(const Problem& p) {
    const Epilogue& e = p.epilogue;
    const bool adds = e.c != nullptr && e.beta != 0.0f;
    const bool rounds_before = e.activation != Activation::none;
    const bool c_fits = !adds || (e.beta == 1.0f && e.c->dtype == DType::bf16 &&
                                  (rounds_before || (e.bias == nullptr && e.preact == nullptr)));
    return has_bf16_instructions() && p.a.dtype == DType::bf16 && p.b.dtype == DType::bf16 &&
           p.out_dtype == DType::bf16 && p.a.cols > 0 && e.alpha == 1.0f && c_fits;
}

const void* at(const Matrix& m, int64_t row, int64_t col) {
    return static_cast<const char*>(m.data) + (row * m.row_stride + col * m.col_stride) * bytes_of(m.dtype);
}

// fp32 memory that is kept from call to call by the thread that calls (a fresh mapping costs more than the copy into
// it), aligned for the widest vectors.
class Workspace {
  public:
    float* floats(int64_t count) {
        if (count > capacity_) {
            memory_.reset(static_cast<float*>(
                std::aligned_alloc(kAlign, static_cast<size_t>(ceil_div(count * 4, kAlign) * kAlign))));
            capacity_ = memory_ == nullptr ? 0 : count;
            if (memory_ == nullptr) throw std::bad_alloc();
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    static constexpr int64_t kAlign = 4096;
    std::unique_ptr<float, Free> memory_;
    int64_t capacity_ = 0;
};

// An fp32 panel of each operand, and the block of accumulators that they are multiplied into: at most 4 MB each.
// Widening costs little beside 2 * 1024 operations for each element, and the borrowed product runs at full speed on
// such blocks; 512 x 256 lost 5 to 10 %, more than 1024 gained nothing.
struct Blocks {
    int64_t m, n, k;
};

Blocks choose_blocks(const Problem& p) {
    constexpr int64_t kSide = 1024, kFew = 256;
    // Few rows use each widened number a few times only, so its panel had better still be in L2: at (128, 3072, 768)
    // that is 15 %.
    const int64_t m = p.b.cols <= kFew ? kFew : kSide, n = p.a.rows <= kFew ? kFew : kSide;
    return {smaller(p.a.rows, m), smaller(p.b.cols, n), smaller(p.a.cols, kSide)};
}

// A part of an operand, widened into `panel` in the operand's own memory order, so that both sides of the copy run
// along rows.
Strided widened(const Matrix& m, int64_t row, int64_t col, int64_t rows, int64_t cols, float* panel,
                const Parallel& parallel) {
    const bool by_column = m.row_stride == 1 && m.col_stride != 1;
    const int64_t lines = by_column ? cols : rows, length = by_column ? rows : cols;
    const int64_t pitch = ceil_div(length, 16) * 16;
    const int64_t stride = by_column ? m.row_stride : m.col_stride;
    parallel(lines, larger(1, 16384 / larger(1, length)), [&](int64_t begin, int64_t end) {
        for (int64_t line = begin; line < end; ++line) {
            const void* source = by_column ? at(m, row, col + line) : at(m, row + line, col);
            engine().widen_row(source, m.dtype, stride, length, panel + line * pitch);
        }
    });
    return by_column ? Strided{panel, rows, cols, 1, pitch} : Strided{panel, rows, cols, pitch, 1};
}

// The same, but in place when it is fp32 already.
Strided fp32_part(const Matrix& m, int64_t row, int64_t col, int64_t rows, int64_t cols, float* panel,
                  const Parallel& parallel) {
    if (m.dtype != DType::f32) return widened(m, row, col, rows, cols, panel, parallel);
    return {const_cast<void*>(at(m, row, col)), rows, cols, m.row_stride, m.col_stride};
}

int64_t panel_size(int64_t a, int64_t b) { return (a + 16) * (b + 16); }

// Rows [m, m + rows) and columns [n, n + cols) of the output, from accumulators with row stride `pitch`.
void finish(const Problem& p, int64_t m, int64_t n, int64_t rows, int64_t cols, const float* acc, int64_t pitch,
            const Parallel& parallel) {
    const Epilogue& e = p.epilogue;
    RowEpilogue row{};
    row.alpha = e.alpha;
    row.beta = e.beta;
    row.activation = e.activation;
    row.bias_dtype = p.a.dtype;
    row.out_dtype = p.out_dtype;
    if (e.bias != nullptr) row.bias = static_cast<const char*>(e.bias) + n * bytes_of(p.a.dtype);
    parallel(rows, larger(1, 8192 / larger(1, cols)), [&](int64_t begin, int64_t end) {
        RowEpilogue mine = row;
        for (int64_t i = begin; i < end; ++i) {
            if (e.preact != nullptr) {
                mine.preact = static_cast<char*>(e.preact) + ((m + i) * p.b.cols + n) * bytes_of(p.out_dtype);
            }
            if (e.grad_preact != nullptr) {
                mine.grad_preact = at(*e.grad_preact, m + i, n);
                mine.grad_preact_dtype = e.grad_preact->dtype;
                mine.grad_preact_stride = e.grad_preact->col_stride;
            }
            if (e.grad_up != nullptr) {
                mine.grad_up = at(*e.grad_up, m + i, n);
                mine.grad_up_dtype = e.grad_up->dtype;
                mine.grad_up_stride = e.grad_up->col_stride;
                mine.out2 = static_cast<char*>(e.out2) + ((m + i) * p.out_stride + n) * bytes_of(p.out_dtype);
            }
            if (e.c != nullptr && e.beta != 0.0f) {
                mine.c = at(*e.c, m + i, n);
                mine.c_dtype = e.c->dtype;
                mine.c_stride = e.c->col_stride;
            }
            mine.out = static_cast<char*>(p.out) + ((m + i) * p.out_stride + n) * bytes_of(p.out_dtype);
            engine().epilogue_row(mine, acc + i * pitch, cols);
        }
    });
}

bool trivial(const Epilogue& e) {
    return e.alpha == 1.0f && e.bias == nullptr && e.preact == nullptr && e.grad_preact == nullptr &&
           e.activation == Activation::none && (e.c == nullptr || e.beta == 0.0f);
}

// An operand as it lies in memory, batch and all (see is_regular).
Strided whole(const Matrix& m, int64_t batch, const int64_t* offsets) {
    const int64_t step = batch > 1 ? offsets[1] - offsets[0] : 0;
    return {const_cast<void*>(m.data), m.rows, m.cols, m.row_stride, m.col_stride, batch, step};
}

// fp32 in and out: one product straight into the output, which then is its own row of accumulators.
void gemm_fp32(const Problem& p, const Blas& blas, const Parallel& parallel) {
    const int64_t rows = p.a.rows, cols = p.b.cols;
    blas.product(whole(p.a, p.batch, p.a_offsets), whole(p.b, p.batch, p.b_offsets),
                 {p.out, rows, cols, p.out_stride, 1, p.batch, rows * p.out_stride}, false);
    if (!trivial(p.epilogue)) {
        finish(p, 0, 0, p.batch * rows, cols, static_cast<const float*>(p.out), p.out_stride, parallel);
    }
}

void gemm_bf16(const Problem& p, const Blas& blas, const Parallel& parallel) {
    const int64_t rows = p.a.rows, cols = p.b.cols;
    const Epilogue& e = p.epilogue;
    const bool apart = e.preact != nullptr, adds = e.c != nullptr && e.beta != 0.0f;
    const bool only_adds = adds && e.activation == Activation::none;
    const int64_t pitch = apart ? cols : p.out_stride;
    const Strided z{apart ? e.preact : p.out, rows, cols, pitch, 1, p.batch, rows * pitch};
    const Strided bias{const_cast<void*>(e.bias), 1, cols, cols, 1};
    const Strided* start = e.bias == nullptr ? nullptr : &bias;
    Strided c{};
    if (only_adds) {
        c = {const_cast<void*>(e.c->data), rows, cols, e.c->row_stride, e.c->col_stride};
        start = &c;
    }
    blas.product_bf16(whole(p.a, p.batch, p.a_offsets), whole(p.b, p.batch, p.b_offsets), start, z);
    if (e.activation == Activation::none && !apart && e.grad_up == nullptr) return;
    // What remains runs on the rounded z.
    Problem rest = p;
    rest.epilogue.bias = nullptr;
    rest.epilogue.preact = nullptr;
    const Matrix rounded{z.data, DType::bf16, rows, cols, z.row_stride, 1};
    constexpr int64_t kPart = 1024;
    parallel(rows, larger(1, 8192 / cols), [&](int64_t begin, int64_t end) {
        alignas(64) float acc[kPart];
        for (int64_t i = begin; i < end; ++i) {
            for (int64_t n = 0; n < cols; n += kPart) {
                const int64_t count = smaller(kPart, cols - n);
                engine().widen_row(at(rounded, i, n), DType::bf16, 1, count, acc);
                finish(rest, i, n, 1, count, acc, 0, serial());
            }
        }
    });
}

void gemm_blocked(const Problem& p, const Blas& blas, const Parallel& parallel) {
    const int64_t rows = p.a.rows, cols = p.b.cols, inner = p.a.cols;
    const Blocks block = choose_blocks(p);
    const int64_t pitch = ceil_div(block.n, 16) * 16;
    static thread_local Workspace workspace;
    float* acc = workspace.floats(block.m * pitch + panel_size(block.m, block.k) + panel_size(block.k, block.n));
    float* a_panel = acc + block.m * pitch;
    float* b_panel = a_panel + panel_size(block.m, block.k) / 16 * 16;
    for (int64_t m = 0; m < rows; m += block.m) {
        const int64_t m_count = smaller(block.m, rows - m);
        Strided a{};
        for (int64_t n = 0; n < cols; n += block.n) {
            const int64_t n_count = smaller(block.n, cols - n);
            for (int64_t k = 0; k < inner; k += block.k) {
                const int64_t k_count = smaller(block.k, inner - k);
                // With all of K in one panel, A's is widened once for all blocks of columns.
                if (n == 0 || block.k < inner) a = fp32_part(p.a, m, k, m_count, k_count, a_panel, parallel);
                const Strided b = fp32_part(p.b, k, n, k_count, n_count, b_panel, parallel);
                blas.product(a, b, {acc, m_count, n_count, pitch, 1}, k > 0);
            }
            finish(p, m, n, m_count, n_count, acc, pitch, parallel);
        }
    }
}

// Do the operands of a batch lie at equal distances?
bool is_regular(int64_t batch, const int64_t* offsets) {
    if (batch < 2) return true;
    const int64_t step = offsets[1] - offsets[0];
    for (int64_t i = 2; i < batch; ++i) {
        if (offsets[i] - offsets[i - 1] != step) return false;
    }
    return step >= 0;
}

Matrix moved(Matrix m, int64_t elements) {
    m.data = static_cast<const char*>(m.data) + elements * bytes_of(m.dtype);
    return m;
}

// Many small matrices: some of them at a time, each widened by one thread, in one batched product.
constexpr int64_t kSmall = 1 << 16;  // elements of the largest matrix of one product
constexpr int64_t kGroup = 1 << 19;  // floats of each of the three blocks

void gemm_grouped(const Problem& p, const Blas& blas, const Parallel& parallel) {
    const int64_t rows = p.a.rows, cols = p.b.cols, inner = p.a.cols;
    const int64_t a_size = panel_size(rows, inner), b_size = panel_size(inner, cols), c_size = rows * cols;
    const int64_t group = smaller(p.batch, larger(1, kGroup / larger(a_size, larger(b_size, c_size))));
    static thread_local Workspace workspace;
    float* a_panel = workspace.floats(group * (a_size + b_size + c_size));
    float* b_panel = a_panel + group * a_size;
    float* acc = b_panel + group * b_size;
    for (int64_t first = 0; first < p.batch; first += group) {
        const int64_t count = smaller(group, p.batch - first);
        Strided a{}, b{};
        parallel(count, larger(1, 16384 / (a_size + b_size)), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const Matrix ma = moved(p.a, p.a_offsets[first + i]), mb = moved(p.b, p.b_offsets[first + i]);
                const Strided wa = widened(ma, 0, 0, rows, inner, a_panel + i * a_size, serial());
                const Strided wb = widened(mb, 0, 0, inner, cols, b_panel + i * b_size, serial());
                if (i == 0) a = wa, b = wb;
            }
        });
        a.batch = b.batch = count;
        a.batch_stride = a_size;
        b.batch_stride = b_size;
        blas.product(a, b, {acc, rows, cols, cols, 1, count, c_size}, false);
        finish(p, first * rows, 0, count * rows, cols, acc, cols, parallel);
    }
}

// An empty sum: the epilogue of zeros.
void gemm_empty(const Problem& p, const Parallel& parallel) {
    static constexpr float kZeros[256] = {};
    for (int64_t n = 0; n < p.b.cols; n += 256)
        finish(p, 0, n, p.batch * p.a.rows, smaller(256, p.b.cols - n), kZeros, 0, parallel);
}

void gemm_one(const Problem& p, const Blas& blas, const Parallel& parallel) {
    if (use_bf16_product(p)) return gemm_bf16(p, blas, parallel);
    // With a c the accumulators are always apart, so that adding into c itself and into a copy give the same bits.
    const bool fp32 = p.a.dtype == DType::f32 && p.out_dtype == DType::f32;
    if (fp32 && p.epilogue.c == nullptr) return gemm_fp32(p, blas, parallel);
    gemm_blocked(p, blas, parallel);
}

void gemm_batch(const Problem& p, const Blas& blas, const Parallel& parallel) {
    const int64_t rows = p.a.rows, cols = p.b.cols, inner = p.a.cols;
    if (is_regular(p.batch, p.a_offsets) && is_regular(p.batch, p.b_offsets) && p.epilogue.c == nullptr) {
        if (use_bf16_product(p)) return gemm_bf16(p, blas, parallel);
        if (p.a.dtype == DType::f32 && p.out_dtype == DType::f32) return gemm_fp32(p, blas, parallel);
    }
    if (larger(rows * inner, larger(inner * cols, rows * cols)) <= kSmall) return gemm_grouped(p, blas, parallel);
    for (int64_t i = 0; i < p.batch; ++i) {
        Problem one{
            moved(p.a, p.a_offsets[i]), moved(p.b, p.b_offsets[i]), p.out, p.out_dtype, p.out_stride, p.epilogue};
        one.out = static_cast<char*>(p.out) + i * rows * p.out_stride * bytes_of(p.out_dtype);
        Matrix c{};
        if (p.epilogue.c != nullptr) {
            c = moved(*p.epilogue.c, i * rows * p.epilogue.c->row_stride);
            one.epilogue.c = &c;
        }
        gemm_one(one, blas, parallel);
    }
}

}  // namespace

void gemm(const Problem& problem, const Blas& blas, const Parallel& parallel) {
    if (problem.batch * problem.a.rows == 0 || problem.b.cols == 0) return;
    if (problem.a.cols == 0) return gemm_empty(problem, parallel);
    if (problem.batch > 1) return gemm_batch(problem, blas, parallel);
    gemm_one(problem, blas, parallel);
}

}  // namespace halfops::linear::cpu
