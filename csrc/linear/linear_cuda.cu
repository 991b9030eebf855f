// A problem becomes kernels: which layout its operands have, which row of the policies serves it, and what runs after.
#include <array>
#include <string>
#include <utility>

#include "collective/column_sums.cuh"
#include "collective/launch.cuh"
#include "collective/upload.h"
#include "linear/finish.cuh"
#include "linear/linear.h"
#include "linear/rows.cuh"

namespace halfops::linear::cuda {
namespace {

struct Device {
    int multiprocessors, shared_bytes, compute_major;
};

cudaError_t current_device(Device* device) {
    static DeviceFact multiprocessors, shared_bytes;
    const auto attribute = [](cudaDeviceAttr which) {
        return [which](int index, int* number) { return cudaDeviceGetAttribute(number, which, index); };
    };
    cudaError_t status = multiprocessors.get(&device->multiprocessors, attribute(cudaDevAttrMultiProcessorCount));
    if (status == cudaSuccess) {
        status = shared_bytes.get(&device->shared_bytes, attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    }
    // Code for sm_75 has neither cp.async nor bf16, wherever it runs.
    int architecture = 0;
    if (status == cudaSuccess) status = compiled_for<finish_squares_kernel>(&architecture);
    device->compute_major = architecture / 10;
    return status;
}

// --- operands -------------------------------------------------------------------------------------------------------

// An operand along M (or N) and along K; a dimension of one element has no stride.
Operand operand_of(const Matrix& matrix, bool rows_are_k) {
    const int64_t mn = rows_are_k ? matrix.cols : matrix.rows, k = rows_are_k ? matrix.rows : matrix.cols;
    const int64_t mn_stride = rows_are_k ? matrix.col_stride : matrix.row_stride;
    const int64_t k_stride = rows_are_k ? matrix.row_stride : matrix.col_stride;
    return {matrix.data, mn > 1 ? mn_stride : 0, k > 1 ? k_stride : 0};
}

// Lines run along K unless only M (or N) has neighbours in memory.
Major major_of(const Operand& operand) {
    return operand.k_stride != 1 && operand.mn_stride == 1 ? Major::mn : Major::k;
}

bool is_aligned(const Operand& operand, int64_t mn, int64_t k, Major major) {
    const int64_t along = major == Major::k ? operand.k_stride : operand.mn_stride;
    const int64_t line = major == Major::k ? operand.mn_stride : operand.k_stride;
    const bool side_by_side = along == 1 || (major == Major::k ? k : mn) <= 1;
    return side_by_side && reinterpret_cast<uint64_t>(operand.data) % kChunkBytes == 0 && line % kChunkElements == 0;
}

// The distance of a batch's operands, or -1 where they lie at no equal distances.
int64_t step_of(const int64_t* offsets, int64_t batch) {
    if (offsets == nullptr || batch < 2) return 0;
    const int64_t step = offsets[1] - offsets[0];
    for (int64_t i = 0; i < batch; ++i) {
        if (offsets[i] != i * step) return -1;
    }
    return step < 0 ? -1 : step;
}

bool are_aligned(const int64_t* offsets, int64_t batch) {
    for (int64_t i = 0; offsets != nullptr && i < batch; ++i) {
        if (offsets[i] % kChunkElements != 0) return false;
    }
    return true;
}

struct Extent {
    uint64_t begin, end;
};

Extent extent_of(const Operand& operand, int64_t mn, int64_t k, const int64_t* offsets, int64_t batch) {
    int64_t low = 0, high = 0;
    for (int64_t i = 0; offsets != nullptr && i < batch; ++i) {
        low = i == 0 ? offsets[i] : smaller(low, offsets[i]);
        high = i == 0 ? offsets[i] : larger(high, offsets[i]);
    }
    const int64_t last = (mn - 1) * operand.mn_stride + (k - 1) * operand.k_stride;
    const auto data = reinterpret_cast<uint64_t>(operand.data);
    return {data + static_cast<uint64_t>(low) * 2, data + static_cast<uint64_t>(high + last + 1) * 2};
}

// --- the epilogue ---------------------------------------------------------------------------------------------------

Sheet sheet_at(void* data, DType dtype, int64_t row_stride, int64_t col_stride) {
    const bool vectors = data != nullptr && col_stride == 1 &&
                         reinterpret_cast<uint64_t>(data) % sizeof(Vector16) == 0 &&
                         row_stride * bytes_of(dtype) % static_cast<int64_t>(sizeof(Vector16)) == 0;
    return {data, row_stride, col_stride, dtype, vectors};
}

Sheet sheet_of(const Matrix* matrix) {
    if (matrix == nullptr) return sheet_at(nullptr, DType::f32, 0, 1);
    return sheet_at(const_cast<void*>(matrix->data), matrix->dtype, matrix->row_stride, matrix->col_stride);
}

EpilogueArguments epilogue_of(const Problem& p) {
    const Epilogue& e = p.epilogue;
    const int64_t cols = p.b.cols;
    const auto row = [&](const void* data) { return sheet_at(const_cast<void*>(data), p.a.dtype, 0, 1); };
    EpilogueArguments arguments{};
    arguments.cols = cols;
    arguments.alpha = e.alpha;
    arguments.beta = e.beta;
    arguments.activation = e.activation;
    arguments.gated = p.b2 != nullptr && p.a2 == nullptr;
    arguments.out = sheet_at(p.out, p.out_dtype, p.out_stride, 1);
    arguments.out2 = sheet_at(e.out2, p.out_dtype, p.out_stride, 1);
    arguments.preact = sheet_at(e.preact, p.out_dtype, cols, 1);
    arguments.preact2 = sheet_at(e.preact2, p.out_dtype, cols, 1);
    arguments.grad_preact = sheet_of(e.grad_preact);
    arguments.grad_up = sheet_of(e.grad_up);
    arguments.c = sheet_of(e.beta == 0.0f ? nullptr : e.c);
    arguments.bias = row(e.bias);
    arguments.bias2 = row(e.bias2);
    return arguments;
}

// --- the plan -------------------------------------------------------------------------------------------------------

struct Forced {
    int policy = -1;
    int64_t blocks = 0;
};
thread_local Forced forced;

// Parts of the workspace, by their offsets.
struct Layout {
    int64_t a_offsets = 0, b_offsets = 0, partials = 0, column_sums = 0, column_sums2 = 0, squares = 0, bytes = 0;
    int64_t sum_rows = 0, square_count = 0;
};

struct Prepared {
    GemmArguments arguments{};
    Major major_a, major_b;
    Plan plan;
    Layout layout;
    int64_t a_step, b_step;
};

int64_t padded(int64_t bytes) { return ceil_div(bytes, kChunkBytes) * kChunkBytes; }

Layout layout_of(const Problem& p, const Policy& policy, const Prepared& prepared) {
    const Schedule& schedule = prepared.arguments.schedule;
    const auto room = [](Layout& layout, bool wanted, int64_t bytes) {
        const int64_t at = layout.bytes;
        if (wanted) layout.bytes += padded(bytes);
        return at;
    };
    Layout layout;
    const int64_t table = p.batch * static_cast<int64_t>(sizeof(int64_t));
    layout.a_offsets = room(layout, prepared.a_step < 0, table);
    layout.b_offsets = room(layout, prepared.b_step < 0, table);
    layout.partials = room(layout, schedule.is_split(), schedule.blocks * 2 * policy.m * policy.n * 4);
    const int64_t patches = schedule.is_split() ? warp_m(policy) / kPatchRows : 1;
    layout.sum_rows = p.batch * schedule.tiles_m * policy.warps_m * patches;
    layout.square_count = schedule.tiles() * policy.warps_m * policy.warps_n * patches;
    layout.column_sums = room(layout, p.epilogue.column_sums != nullptr, layout.sum_rows * p.b.cols * 4);
    layout.column_sums2 = room(layout, p.epilogue.column_sums2 != nullptr, layout.sum_rows * p.b.cols * 4);
    layout.squares = room(layout, p.epilogue.stats != nullptr, layout.square_count * 8);
    return layout;
}

CudaStatus prepare(const Problem& p, Prepared* prepared) {
    Device device{};
    if (const cudaError_t status = current_device(&device); status != cudaSuccess) return status_of(status);
    if (p.a.dtype == DType::bf16 && device.compute_major < 8) {
        return {static_cast<int>(cudaErrorNotSupported), "sm_75"};
    }
    GemmArguments& arguments = prepared->arguments;
    Operands& o = arguments.operands;
    arguments.epilogue = epilogue_of(p);
    o.m = p.a.rows;
    o.n = p.b.cols;
    o.k = p.a.cols;
    o.gated = arguments.epilogue.gated;
    o.products = p.a2 != nullptr ? 2 : 1;
    o.a[0] = operand_of(p.a, false);
    o.b[0] = operand_of(p.b, true);
    o.a[1] = p.a2 == nullptr ? o.a[0] : operand_of(*p.a2, false);
    o.b[1] = p.b2 == nullptr ? o.b[0] : operand_of(*p.b2, true);
    prepared->a_step = step_of(p.a_offsets, p.batch);
    prepared->b_step = step_of(p.b_offsets, p.batch);
    o.a_step = prepared->a_step;
    o.b_step = prepared->b_step;

    // Two operands of one side share a layout; one that lies otherwise is read element by element.
    const Major a = prepared->major_a = major_of(o.a[0]), b = prepared->major_b = major_of(o.b[0]);
    bool aligned = are_aligned(p.a_offsets, p.batch) && are_aligned(p.b_offsets, p.batch);
    for (int i = 0; i < 2; ++i) {
        aligned = aligned && is_aligned(o.a[i], o.m, o.k, a) && is_aligned(o.b[i], o.n, o.k, b);
        const Extent in_a = extent_of(o.a[i], o.m, o.k, p.a_offsets, p.batch);
        const Extent in_b = extent_of(o.b[i], o.n, o.k, p.b_offsets, p.batch);
        o.a_begin[i] = in_a.begin;
        o.a_end[i] = in_a.end;
        o.b_begin[i] = in_b.begin;
        o.b_end[i] = in_b.end;
    }

    const Shape shape{o.m,
                      o.gated ? 2 * o.n : o.n,
                      o.k,
                      o.products,
                      p.batch,
                      a,
                      b,
                      aligned,
                      device.multiprocessors,
                      device.shared_bytes,
                      device.compute_major};
    Selection selection = select(shape);
    if (forced.policy >= 0 && serves(kPolicies[forced.policy], shape)) {
        selection.policy = forced.policy;
        selection.blocks = forced.blocks > 0 ? smaller(forced.blocks, most_blocks(kPolicies[forced.policy], shape))
                                             : tiles_of(kPolicies[forced.policy], shape);
    }
    if (selection.policy < 0) return {static_cast<int>(cudaErrorNotSupported), "no policy serves this device"};
    const Policy& policy = kPolicies[selection.policy];
    Schedule& schedule = arguments.schedule;
    schedule.tiles_m = ceil_div(shape.m, policy.m);
    schedule.tiles_n = ceil_div(shape.n, policy.n);
    schedule.batch = p.batch;
    schedule.steps = steps_of(policy, shape);
    schedule.blocks = selection.blocks;
    schedule.group = best_group(schedule.tiles_m, schedule.tiles_n, device.multiprocessors * resident_of(policy, shape),
                                policy.m, policy.n);
    constexpr int64_t kMost = (int64_t{1} << 31) - 1;
    if (larger(schedule.blocks, larger(schedule.tiles(), schedule.steps)) > kMost) {
        return {static_cast<int>(cudaErrorInvalidValue), "more than 2^31 tiles, or steps of one"};
    }
    arguments.epilogue.fine = schedule.is_split();
    prepared->layout = layout_of(p, policy, *prepared);
    prepared->plan = {selection.policy, selection.blocks};
    return {};
}

bool is_empty(const Problem& p) { return p.batch * p.a.rows == 0 || p.b.cols == 0; }

// --- launches -------------------------------------------------------------------------------------------------------

template <class T, int... kRows>
constexpr std::array<LaunchRow, sizeof...(kRows)> launchers(std::integer_sequence<int, kRows...>) {
    return {&launch_row<T, kRows>...};
}
template <class T>
constexpr auto kLaunchers = launchers<T>(std::make_integer_sequence<int, kPolicyCount>{});

template <int kColumns>
cudaError_t finish_pieces(const GemmArguments& arguments, const Policy& policy, cudaStream_t stream) {
    const int64_t patches = arguments.schedule.tiles() * policy.m * policy.n / (kPatchRows * kColumns);
    const Grid grid{static_cast<unsigned>(ceil_div(patches, kFinishWarps)), kFinishThreads};
    return launch<finish_pieces_kernel<kColumns>>(grid, stream, arguments, policy);
}

cudaError_t finish_column_sums(const float* partial, int64_t rows, int64_t cols, DType dtype, void* sums,
                               cudaStream_t stream) {
    if (sums == nullptr) return cudaSuccess;
    return dtype == DType::f16 ? add_columns(partial, rows, cols, static_cast<f16*>(sums), stream)
                               : add_columns(partial, rows, cols, static_cast<bf16*>(sums), stream);
}

cudaError_t finish_squares(const double* squares, int64_t count, double* stats, cudaStream_t stream) {
    if (stats == nullptr) return cudaSuccess;
    return launch<finish_squares_kernel>(Grid{1, kSquaresThreads}, stream, squares, count, stats);
}

}  // namespace

CudaStatus supported() { return status_of(has_kernel<finish_squares_kernel>()); }

CudaStatus gemm(const Problem& problem, const Lender& lender, void* stream, Plan* ran) {
    *ran = {};
    const auto queue = static_cast<cudaStream_t>(stream);
    const Epilogue& e = problem.epilogue;
    const DType dtype = problem.a.dtype;
    Prepared prepared;
    if (is_empty(problem)) {  // no element to store, but sums of nothing
        cudaError_t status = finish_column_sums(nullptr, 0, problem.b.cols, dtype, e.column_sums, queue);
        if (status == cudaSuccess) {
            status = finish_column_sums(nullptr, 0, problem.b.cols, dtype, e.column_sums2, queue);
        }
        if (status == cudaSuccess) status = finish_squares(nullptr, 0, e.stats, queue);
        return status_of(status);
    }
    if (const CudaStatus status = prepare(problem, &prepared); status.code != 0) return status;
    *ran = prepared.plan;
    const Policy& policy = kPolicies[prepared.plan.policy];
    GemmArguments& arguments = prepared.arguments;
    const Layout& layout = prepared.layout;
    char* memory = static_cast<char*>(lender(layout.bytes));
    const auto send = [&](const int64_t* offsets, int64_t step, int64_t at, const int64_t** table) -> CudaStatus {
        if (step >= 0) return {};
        *table = reinterpret_cast<const int64_t*>(memory + at);
        return upload(reinterpret_cast<int64_t*>(memory + at), offsets, problem.batch, stream);
    };
    CudaStatus sent = send(problem.a_offsets, prepared.a_step, layout.a_offsets, &arguments.operands.a_offsets);
    if (sent.code == 0) {
        sent = send(problem.b_offsets, prepared.b_step, layout.b_offsets, &arguments.operands.b_offsets);
    }
    if (sent.code != 0) return sent;
    const auto floats = [&](bool wanted, int64_t at) {
        return wanted ? reinterpret_cast<float*>(memory + at) : nullptr;
    };
    arguments.partials = floats(arguments.schedule.is_split(), layout.partials);
    arguments.epilogue.column_sums = floats(e.column_sums != nullptr, layout.column_sums);
    arguments.epilogue.column_sums2 = floats(e.column_sums2 != nullptr, layout.column_sums2);
    double* squares = e.stats == nullptr ? nullptr : reinterpret_cast<double*>(memory + layout.squares);
    arguments.epilogue.squares = squares;

    const auto& launchers = dtype == DType::f16 ? kLaunchers<f16> : kLaunchers<bf16>;
    cudaError_t status =
        launchers[static_cast<size_t>(prepared.plan.policy)](arguments, prepared.major_a, prepared.major_b, queue);
    if (status == cudaSuccess && arguments.schedule.is_split()) {
        status = warp_n(policy) == 64 ? finish_pieces<64>(arguments, policy, queue)
                                      : finish_pieces<32>(arguments, policy, queue);
    }
    const int64_t rows = layout.sum_rows, cols = problem.b.cols;
    if (status == cudaSuccess) {
        status = finish_column_sums(arguments.epilogue.column_sums, rows, cols, dtype, e.column_sums, queue);
    }
    if (status == cudaSuccess) {
        status = finish_column_sums(arguments.epilogue.column_sums2, rows, cols, dtype, e.column_sums2, queue);
    }
    if (status == cudaSuccess) status = finish_squares(squares, layout.square_count, e.stats, queue);
    return status_of(status);
}

std::vector<std::string> policies() {
    std::vector<std::string> names;
    for (const Policy& policy : kPolicies) names.emplace_back(policy.name);
    return names;
}

std::string describe(const Plan& plan) {
    if (plan.policy < 0) return "nothing to do";
    const Policy& policy = kPolicies[plan.policy];
    return std::string(policy.name) + ", " + std::to_string(policy.stages) + " stages, " + std::to_string(plan.blocks) +
           " blocks";
}

void force_policy(const std::string& name, int64_t blocks) {
    forced = {};
    for (int row = 0; row < kPolicyCount; ++row) {
        if (name == kPolicies[row].name) forced = {row, blocks};
    }
}

}  // namespace halfops::linear::cuda
