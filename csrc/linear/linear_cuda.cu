// A problem becomes kernels: which layout its operands have, which row of the policies serves it, and what runs after.
#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "collective/column_sums.cuh"
#include "collective/launch.cuh"
#include "collective/tensor_map.cuh"
#include "collective/upload.h"
#include "linear/finish.cuh"
#include "linear/linear.h"
#include "linear/packed.cuh"
#include "linear/rows.cuh"
#include "ptx/hopper.cuh"

namespace halfops::linear::cuda {
namespace {

struct Device {
    int multiprocessors, shared_bytes, compute_major;
    bool hopper;  // the binary has sm_90a's kernels for it
};

// What it may be launched with says whether it was compiled for sm_90a: no other attribute of a kernel does.
constexpr int kOnHopper = 64, kElsewhere = 32;
__global__ void __launch_bounds__(ptx::kHasHopper ? kOnHopper : kElsewhere) hopper_kernel() {}

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
    static DeviceFact threads;
    int most = 0;
    if (status == cudaSuccess && device->compute_major == 9) {
        status = threads.get(&most, [](int, int* number) {
            cudaFuncAttributes attributes;
            const cudaError_t asked = cudaFuncGetAttributes(&attributes, hopper_kernel);
            if (asked == cudaSuccess) *number = attributes.maxThreadsPerBlock;
            return asked;
        });
    }
    device->hopper = most >= kOnHopper;
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

// One side of a problem, A or B: the operands of up to two products, and their batch.
struct Side {
    Operand* operands;
    int64_t mn, k;
    Major major;
    const int64_t* offsets;
    int64_t batch, step;

    int64_t length() const { return major == Major::k ? k : mn; }
    int64_t lines() const { return major == Major::k ? mn : k; }
    int64_t stride(int i) const { return major == Major::k ? operands[i].k_stride : operands[i].mn_stride; }
    int64_t line_stride(int i) const { return major == Major::k ? operands[i].mn_stride : operands[i].k_stride; }
    int64_t copies() const { return step == 0 ? 1 : batch; }
    bool has_two() const {
        return operands[1].data != operands[0].data || stride(1) != stride(0) || line_stride(1) != line_stride(0);
    }

    // Every line of 16-byte chunks, from an aligned address on.
    bool is_aligned() const {
        bool aligned = are_aligned(offsets, batch);
        for (int i = 0; i < 2; ++i) aligned = aligned && linear::cuda::is_aligned(operands[i], mn, k, major);
        return aligned;
    }
    // And the copy engine finds its way: positive distances that it can hold.
    bool is_addressable() const {
        constexpr int64_t kPitch = int64_t{1} << 39;
        bool addressable = is_aligned() && step >= 0 && step < kPitch;
        for (int i = 0; i < 2; ++i) {
            const int64_t line = line_stride(i);
            addressable = addressable && (lines() == 1 || (line > 0 && line < kPitch));
        }
        return addressable;
    }

    // A copy with aligned lines.
    int64_t packed_pitch() const { return ceil_div(length(), kChunkElements) * kChunkElements; }
    int64_t packed_bytes() const { return packed_pitch() * lines() * copies() * 2; }
    cudaError_t pack(int i, const int64_t* table, char* to, cudaStream_t stream) {
        const PackArguments arguments{static_cast<const uint16_t*>(operands[i].data),
                                      reinterpret_cast<uint32_t*>(to),
                                      length(),
                                      lines(),
                                      copies(),
                                      stride(i),
                                      line_stride(i),
                                      step < 0 ? table : nullptr,
                                      step,
                                      packed_pitch()};
        unsigned blocks = 0;
        const int64_t wanted = ceil_div(lines() * copies(), int64_t{kPackThreads} / kWarpSize);
        const cudaError_t status = persistent_blocks<pack_kernel>(wanted, kPackThreads, &blocks);
        operands[i] = major == Major::k ? Operand{to, packed_pitch(), 1} : Operand{to, 1, packed_pitch()};
        return status != cudaSuccess ? status : launch<pack_kernel>(Grid{blocks, kPackThreads}, stream, arguments);
    }
    int64_t packed_step() const { return step == 0 ? 0 : packed_pitch() * lines(); }

    // Boxes of 64 along a line, and of `box_lines` of M (or N), or 64 of K.
    cudaError_t describe(int i, DType dtype, int box_lines, ptx::TensorMap* map) const {
        constexpr int64_t kAny = kChunkBytes;  // between lines of which there is one
        const int64_t pitch = 2 * line_stride(i);
        return make_tensor_map({operands[i].data,
                                dtype,
                                {length(), lines(), copies()},
                                {pitch == 0 ? kAny : pitch, step == 0 ? kAny : 2 * step},
                                {64, major == Major::k ? box_lines : 64, 1},
                                Swizzle::bytes_128},
                               map);
    }
};

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
    const void* const others[] = {e.out2, e.preact, e.preact2,     e.grad_preact,  e.grad_up, arguments.c.data,
                                  e.bias, e.bias2,  e.column_sums, e.column_sums2, e.stats};
    arguments.bare = e.alpha == 1.0f && !arguments.gated && e.activation == Activation::none &&
                     std::all_of(std::begin(others), std::end(others), [](const void* p) { return p == nullptr; });
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
    int64_t packed_a[2] = {}, packed_b[2] = {};
    int64_t a_offsets = 0, b_offsets = 0, partials = 0, column_sums = 0, column_sums2 = 0, squares = 0, bytes = 0;
    int64_t sum_rows = 0, square_count = 0;
};

struct Prepared {
    GemmArguments arguments{};
    BulkArguments bulk{};
    unsigned blocks;  // of the launch
    Side a, b;
    bool pack_a = false, pack_b = false;
    Plan plan;
    Layout layout;
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
    layout.a_offsets = room(layout, prepared.a.step < 0, table);
    layout.b_offsets = room(layout, prepared.b.step < 0, table);
    for (int i = 0; i < 2; ++i) {
        layout.packed_a[i] =
            room(layout, prepared.pack_a && (i == 0 || prepared.a.has_two()), prepared.a.packed_bytes());
        layout.packed_b[i] =
            room(layout, prepared.pack_b && (i == 0 || prepared.b.has_two()), prepared.b.packed_bytes());
    }
    layout.partials = room(layout, schedule.is_split(), schedule.blocks * 2 * policy.m * policy.n * 4);
    const int64_t patches = schedule.is_split() ? warp_m(policy) / kPatchRows : 1;
    layout.sum_rows = p.batch * schedule.tiles_m * policy.warps_m * patches;
    layout.square_count = schedule.tiles() * policy.warps_m * policy.warps_n * patches;
    layout.column_sums = room(layout, p.epilogue.column_sums != nullptr, layout.sum_rows * p.b.cols * 4);
    layout.column_sums2 = room(layout, p.epilogue.column_sums2 != nullptr, layout.sum_rows * p.b.cols * 4);
    layout.squares = room(layout, p.epilogue.stats != nullptr, layout.square_count * 8);
    return layout;
}

Selection choose(const Shape& shape) {
    if (forced.policy < 0 || !serves(kPolicies[forced.policy], shape)) return select(shape);
    const Policy& policy = kPolicies[forced.policy];
    const int64_t blocks =
        forced.blocks > 0 ? smaller(forced.blocks, most_blocks(policy, shape)) : tiles_of(policy, shape);
    return {forced.policy, blocks};
}

// Which of the kernels' own loops an epilogue has, if its 16-bit outputs can leave by the copy engine (`sent`, in the
// order of Output) and the rest is read and written two neighbours at a time.
Kind kind_of(const Problem& p, const EpilogueArguments& e, const bool (&sent)[kOutputs]) {
    const auto suits = [&](const Sheet& sheet, DType dtype) {
        return sheet.data == nullptr || (sheet.vectors && sheet.col_stride == 1 && sheet.dtype == dtype);
    };
    const auto leaves = [&](const Sheet& sheet, Output output) {
        return sheet.data == nullptr || (sent[static_cast<int>(output)] && sheet.dtype == p.a.dtype);
    };
    const DType dtype = p.a.dtype, other = e.out.dtype;
    const bool sums = p.epilogue.column_sums != nullptr, stats = p.epilogue.stats != nullptr;
    const bool reads = e.grad_preact.data != nullptr, ups = e.grad_up.data != nullptr;
    const bool adds = e.c.data != nullptr, keeps = e.preact.data != nullptr;
    const bool inputs =
        suits(e.bias, dtype) && suits(e.bias2, dtype) && suits(e.grad_preact, dtype) && suits(e.grad_up, dtype);
    const bool outputs =
        leaves(e.out2, Output::out2) && leaves(e.preact, Output::preact) && leaves(e.preact2, Output::preact2);
    if (!inputs || !outputs || (e.out2.data != nullptr) != ups) return Kind::any;
    const bool active = e.activation != Activation::none, pairs = e.cols % 2 == 0;
    const bool halves = leaves(e.out, Output::out);
    if (e.gated) return halves && pairs && !reads && !adds && !sums && !stats ? Kind::gated : Kind::any;
    if (ups) return halves && reads && active && !adds && !stats ? Kind::gated_gradient : Kind::any;
    if (reads) return halves && active && !adds && !stats ? Kind::gradient : Kind::any;
    if (sums) return Kind::any;
    if (active) return halves && pairs && !adds && !stats ? Kind::activated : Kind::any;
    if (keeps) return Kind::any;
    if (!adds) return halves && pairs && !(stats && e.bias.data != nullptr) ? Kind::plain : Kind::any;
    if (halves && suits(e.c, dtype)) return Kind::added;
    return other == DType::f32 && e.out.vectors && suits(e.c, DType::f32) ? Kind::accumulated : Kind::any;
}

// Descriptions for the copy engine, of operands in their final places.
cudaError_t describe(const Problem& p, const Policy& policy, Prepared* prepared) {
    const Operands& o = prepared->arguments.operands;
    const EpilogueArguments& e = prepared->arguments.epilogue;
    BulkArguments& bulk = prepared->bulk;
    bulk.a_batched = prepared->a.step == 0 ? 0 : 1;
    bulk.b_batched = prepared->b.step == 0 ? 0 : 1;
    for (int i = 0; i < 2; ++i) {
        cudaError_t status = prepared->a.describe(i, p.a.dtype, block_m(policy), &bulk.a[i]);
        if (status == cudaSuccess) status = prepared->b.describe(i, p.a.dtype, policy.n / 2, &bulk.b[i]);
        if (status != cudaSuccess) return status;
    }
    const auto boxes = [&](const Sheet& sheet, int columns, Swizzle swizzle) {
        const int64_t pitch = 2 * sheet.row_stride;
        return TensorBox{
            sheet.data, sheet.dtype, {e.cols, o.m, p.batch}, {pitch, pitch * o.m}, {columns, kPatchRows, 1}, swizzle};
    };
    const Sheet* sheets[kOutputs] = {&e.out, &e.out2, &e.preact, &e.preact2};  // in the order of Output
    for (int i = 0; i < kOutputs; ++i) {
        const Sheet& sheet = *sheets[i];
        bulk.is_sent[i] = sheet.data != nullptr && sheet.dtype != DType::f32 && sheet.vectors &&
                          make_tensor_map(boxes(sheet, 32, Swizzle::bytes_64), &bulk.outputs[i]) == cudaSuccess;
    }
    bulk.kind = kind_of(p, e, bulk.is_sent);
    if (bulk.kind == Kind::plain) return make_tensor_map(boxes(e.out, 64, Swizzle::bytes_128), &bulk.out);
    return cudaSuccess;
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
    o.a_step = step_of(p.a_offsets, p.batch);
    o.b_step = step_of(p.b_offsets, p.batch);
    // Two operands of one side share a layout; one that lies otherwise is read element by element.
    const Major major_a = major_of(o.a[0]), major_b = major_of(o.b[0]);
    prepared->a = {o.a, o.m, o.k, major_a, p.a_offsets, p.batch, o.a_step};
    prepared->b = {o.b, o.n, o.k, major_b, p.b_offsets, p.batch, o.b_step};
    const Side &a = prepared->a, &b = prepared->b;
    for (int i = 0; i < 2; ++i) {
        const Extent in_a = extent_of(o.a[i], o.m, o.k, p.a_offsets, p.batch);
        const Extent in_b = extent_of(o.b[i], o.n, o.k, p.b_offsets, p.batch);
        o.a_begin[i] = in_a.begin;
        o.a_end[i] = in_a.end;
        o.b_begin[i] = in_b.begin;
        o.b_end[i] = in_b.end;
    }

    constexpr int64_t kMost = (int64_t{1} << 31) - 1;
    const bool pack_a = !a.is_addressable(), pack_b = !b.is_addressable();
    const Shape shape{o.m,
                      o.gated ? 2 * o.n : o.n,
                      o.k,
                      o.products,
                      p.batch,
                      major_a,
                      major_b,
                      a.is_aligned() && b.is_aligned(),
                      device.hopper && o.k > 0 && larger(o.m, larger(o.n, o.k)) <= kMost,
                      o.gated,
                      (pack_a ? a.packed_bytes() : 0) + (pack_b ? b.packed_bytes() : 0),
                      device.multiprocessors,
                      device.shared_bytes,
                      device.compute_major};
    const Selection selection = choose(shape);
    if (selection.policy < 0) return {static_cast<int>(cudaErrorNotSupported), "no policy serves this device"};
    const Policy& policy = kPolicies[selection.policy];
    const int64_t tiles_m = ceil_div(shape.m, policy.m), tiles_n = ceil_div(shape.n, policy.n);
    const int64_t blocks = selection.blocks, steps = steps_of(policy, shape);
    if (larger(blocks, larger(tiles_of(policy, shape), steps)) > kMost) {
        return {static_cast<int>(cudaErrorInvalidValue), "more than 2^31 tiles, or steps of one"};
    }
    const bool in_turn = policy.copy == Copy::bulk;
    const int64_t at_work =
        in_turn ? clusters_of(policy, shape, blocks) : device.multiprocessors * resident_of(policy, shape);
    const int64_t group = best_group(tiles_m, tiles_n, at_work, policy.m, policy.n);
    arguments.schedule = Schedule::make(tiles_m, tiles_n, p.batch, steps, blocks, group);
    prepared->blocks = static_cast<unsigned>(in_turn ? at_work * policy.cluster : blocks);
    arguments.epilogue.fine = arguments.schedule.is_split();
    prepared->pack_a = in_turn && pack_a;
    prepared->pack_b = in_turn && pack_b;
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

// A side's operands to aligned copies of them, if so wanted.
cudaError_t pack(Side& side, bool wanted, const int64_t* table, char* memory, const int64_t (&at)[2],
                 cudaStream_t stream) {
    if (!wanted) return cudaSuccess;
    const bool two = side.has_two();
    cudaError_t status = two ? side.pack(1, table, memory + at[1], stream) : cudaSuccess;
    if (status == cudaSuccess) status = side.pack(0, table, memory + at[0], stream);
    if (!two) side.operands[1] = side.operands[0];
    side.step = side.packed_step();
    return status;
}

template <int kColumns>
cudaError_t finish_pieces(const GemmArguments& arguments, const Policy& policy, cudaStream_t stream) {
    const int64_t tiles = arguments.schedule.tiles(), pieces = arguments.schedule.blocks / tiles;
    const int64_t patches = tiles * policy.m * policy.n / (kPatchRows * kColumns);
    // A warp has eight loads under way, or four pieces.
    const int warps_each = pieces >= 16 ? 4 : pieces >= 8 ? 2 : 1;
    Grid grid{static_cast<unsigned>(ceil_div(patches * warps_each, kFinishWarps)), kFinishThreads};
    grid.overlaps = policy.copy == Copy::bulk;  // then this is the code of sm_90a, which waits
    return launch<finish_pieces_kernel<kColumns>>(grid, stream, arguments, policy, warps_each);
}

// Sums over what was stored. `overlaps`: behind a kernel for sm_90a they begin while it ends, and wait for it.
cudaError_t finish_column_sums(const float* partial, int64_t rows, int64_t cols, DType dtype, void* sums,
                               cudaStream_t stream, bool overlaps) {
    if (sums == nullptr) return cudaSuccess;
    return dtype == DType::f16 ? add_columns(partial, rows, cols, static_cast<f16*>(sums), stream, overlaps)
                               : add_columns(partial, rows, cols, static_cast<bf16*>(sums), stream, overlaps);
}

cudaError_t finish_squares(const double* squares, int64_t count, double* stats, cudaStream_t stream, bool overlaps) {
    if (stats == nullptr) return cudaSuccess;
    Grid grid{1, kSquaresThreads};
    grid.overlaps = overlaps;
    return launch<finish_squares_kernel>(grid, stream, squares, count, stats);
}

struct Sums {
    const float *columns, *columns2;
    const double* squares;
    int64_t rows, count;
};

cudaError_t finish_sums(const Problem& p, const Sums& sums, cudaStream_t stream, bool overlaps) {
    const Epilogue& e = p.epilogue;
    const auto columns = [&](const float* partial, void* to) {
        return finish_column_sums(partial, sums.rows, p.b.cols, p.a.dtype, to, stream, overlaps);
    };
    cudaError_t status = columns(sums.columns, e.column_sums);
    if (status == cudaSuccess) status = columns(sums.columns2, e.column_sums2);
    return status != cudaSuccess ? status : finish_squares(sums.squares, sums.count, e.stats, stream, overlaps);
}

}  // namespace

CudaStatus supported() { return status_of(has_kernel<finish_squares_kernel>()); }

CudaStatus gemm(const Problem& problem, const Lender& lender, void* stream, Plan* ran) {
    *ran = {};
    const auto queue = static_cast<cudaStream_t>(stream);
    const Epilogue& e = problem.epilogue;
    const DType dtype = problem.a.dtype;
    Prepared prepared;
    // No element to store, but sums of nothing.
    if (is_empty(problem)) return status_of(finish_sums(problem, {}, queue, false));
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
    CudaStatus sent = send(problem.a_offsets, prepared.a.step, layout.a_offsets, &arguments.operands.a_offsets);
    if (sent.code == 0) {
        sent = send(problem.b_offsets, prepared.b.step, layout.b_offsets, &arguments.operands.b_offsets);
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

    if (policy.copy == Copy::bulk) {
        Operands& o = arguments.operands;
        cudaError_t made = pack(prepared.a, prepared.pack_a, o.a_offsets, memory, layout.packed_a, queue);
        if (made == cudaSuccess) made = pack(prepared.b, prepared.pack_b, o.b_offsets, memory, layout.packed_b, queue);
        if (made == cudaSuccess) made = describe(problem, policy, &prepared);
        if (made != cudaSuccess) return status_of(made);
    }
    const auto& launchers = dtype == DType::f16 ? kLaunchers<f16> : kLaunchers<bf16>;
    cudaError_t status = launchers[static_cast<size_t>(prepared.plan.policy)](
        arguments, prepared.bulk, prepared.a.major, prepared.b.major, prepared.blocks, queue);
    if (status == cudaSuccess && arguments.schedule.is_split()) {
        status = warp_n(policy) == 64 ? finish_pieces<64>(arguments, policy, queue)
                                      : finish_pieces<32>(arguments, policy, queue);
    }
    if (status == cudaSuccess) {
        const Sums sums{arguments.epilogue.column_sums, arguments.epilogue.column_sums2, squares, layout.sum_rows,
                        layout.square_count};
        status = finish_sums(problem, sums, queue, policy.copy == Copy::bulk);
    }
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
