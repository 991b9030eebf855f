#include "pointwise/pointwise_cpu.h"

#include <vector>

#include "core/column_order.h"
#include "core/cpu_variant.h"
#include "core/shape.h"

namespace halfops::pointwise::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements that are worth a thread

// A task of column sums is a group of row blocks by one strip of columns: threads cannot change the order.
constexpr int64_t kRowTask = kSumsOfGroup * kRowsInFloat, kStrip = 512;

const CpuEngine& engine() {
#if defined(__x86_64__)
    return pick(&kPortable, &kAvx2, &kAvx512);
#else
    return kPortable;
#endif
}

}  // namespace

void activate(Activation activation, DType dtype, const void* z, int64_t n, const Parallel& parallel, void* y) {
    const Elements e{dtype, activation, z, nullptr, nullptr, y, nullptr};
    parallel(n, kGrain, [&](int64_t begin, int64_t end) { engine().activate(e, begin, end); });
}

void activate_backward(Activation activation, DType dtype, const void* dy, const void* z, int64_t n,
                       const Parallel& parallel, void* dz) {
    const Elements e{dtype, activation, dy, z, nullptr, dz, nullptr};
    parallel(n, kGrain, [&](int64_t begin, int64_t end) { engine().activate_backward(e, begin, end); });
}

void gate(Activation activation, DType dtype, const void* gate, const void* up, int64_t n, const Parallel& parallel,
          void* h) {
    const Elements e{dtype, activation, gate, up, nullptr, h, nullptr};
    parallel(n, kGrain, [&](int64_t begin, int64_t end) { engine().gate(e, begin, end); });
}

void gate_backward(Activation activation, DType dtype, const void* dh, const void* gate, const void* up, int64_t n,
                   const Parallel& parallel, void* d_gate, void* d_up) {
    const Elements e{dtype, activation, dh, gate, up, d_gate, d_up};
    parallel(n, kGrain, [&](int64_t begin, int64_t end) { engine().gate_backward(e, begin, end); });
}

void column_sums(DType dtype, const void* x, int64_t rows, int64_t cols, int64_t row_stride, const Parallel& parallel,
                 void* sums) {
    const int64_t bytes = dtype == DType::f32 ? 4 : 2;
    const int64_t strips = ceil_div(cols, kStrip), tasks = larger(1, ceil_div(rows, kRowTask));
    std::vector<double> partial(static_cast<size_t>(tasks * cols), 0.0);  // [tasks, cols]
    parallel(tasks * strips, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t task = i / strips, col = i % strips * kStrip;
            const int64_t last = smaller(rows, (task + 1) * kRowTask);
            for (int64_t row = task * kRowTask; row < last; row += kRowsInFloat) {
                const char* block = static_cast<const char*>(x) + (row * row_stride + col) * bytes;
                engine().add_rows(dtype, block, smaller(kRowsInFloat, last - row), smaller(kStrip, cols - col),
                                  row_stride, &partial[static_cast<size_t>(task * cols + col)]);
            }
        }
    });
    for (int64_t task = 1; task < tasks; ++task) {
        for (int64_t j = 0; j < cols; ++j) {
            partial[static_cast<size_t>(j)] += partial[static_cast<size_t>(task * cols + j)];
        }
    }
    engine().narrow_sums(dtype, partial.data(), cols, sums);
}

}  // namespace halfops::pointwise::cpu
