// ldmatrix and mma, a warp a case: registers of lanes go in and come out, where they belong is in expected.py.
#include "elements.cuh"

#include "collective/shared.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace golden {

inline constexpr int kRows = 64;

struct alignas(16) Row {
    uint32_t word[4];
};

// `in`: 64 rows of 16 bytes a case. `row`: which of them each lane gives.
template <int kMatrices, bool kTransposed>
__global__ void ldmatrix_kernel(const Row* in, const int32_t* row, uint32_t* out) {
    auto& tile = halfops::shared_array<struct Tile, Row, kRows>();
    const auto lane = threadIdx.x;
    for (unsigned i = lane; i < kRows; i += 32) tile[i] = in[static_cast<int64_t>(blockIdx.x) * kRows + i];
    __syncthreads();
    const int64_t at = static_cast<int64_t>(blockIdx.x) * 32 + lane;
    uint32_t r[kMatrices];
    if constexpr (kMatrices == 4 && kTransposed) halfops::ptx::ldmatrix_x4_trans(r, &tile[row[at]]);
    if constexpr (kMatrices == 4 && !kTransposed) halfops::ptx::ldmatrix_x4(r, &tile[row[at]]);
    if constexpr (kMatrices == 2 && kTransposed) halfops::ptx::ldmatrix_x2_trans(r, &tile[row[at]]);
    if constexpr (kMatrices == 2 && !kTransposed) halfops::ptx::ldmatrix_x2(r, &tile[row[at]]);
    for (int i = 0; i < kMatrices; ++i) out[at * kMatrices + i] = r[i];
}

template <int kMatrices, bool kTransposed>
void ldmatrix(const Arguments& arguments) {
    const Array row = arguments["row"];
    launched(launch<ldmatrix_kernel<kMatrices, kTransposed>>(Grid{static_cast<unsigned>(row.count<int32_t>() / 32), 32},
                                                             nullptr, arguments["in"].as<const Row>(),
                                                             row.as<const int32_t>(), arguments["out"].as<uint32_t>()));
}

const Entry ldmatrix_x4("ldmatrix_x4", ldmatrix<4, false>);
const Entry ldmatrix_x4_trans("ldmatrix_x4_trans", ldmatrix<4, true>);
const Entry ldmatrix_x2("ldmatrix_x2", ldmatrix<2, false>);
const Entry ldmatrix_x2_trans("ldmatrix_x2_trans", ldmatrix<2, true>);

// Four registers of a, two of b and four of d for each lane.
template <class T, bool kPair>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* d) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
    uint32_t lane_a[4], lane_b[2];
    float lane_d[4];
    for (int i = 0; i < 4; ++i) lane_a[i] = a[4 * at + i];
    for (int i = 0; i < 2; ++i) lane_b[i] = b[2 * at + i];
    for (int i = 0; i < 4; ++i) lane_d[i] = d[4 * at + i];
    if constexpr (kPair) {
        halfops::ptx::mma_m16n8k8_pair<T>(lane_d, lane_a, lane_b);
    } else {
        halfops::ptx::mma_m16n8k16<T>(lane_d, lane_a, lane_b);
    }
    for (int i = 0; i < 4; ++i) d[4 * at + i] = lane_d[i];
}

template <class T, bool kPair>
void mma(const Arguments& arguments) {
    const Array d = arguments["d"];
    launched(launch<mma_kernel<T, kPair>>(Grid{static_cast<unsigned>(d.count<float>() / 128), 32}, nullptr,
                                          arguments["a"].as<const uint32_t>(), arguments["b"].as<const uint32_t>(),
                                          d.as<float>()));
}

const Entry mma_f16("mma_f16", mma<halfops::f16, false>);
const Entry mma_bf16("mma_bf16", mma<halfops::bf16, false>);
const Entry mma_f16_pair("mma_f16_pair", mma<halfops::f16, true>);
const Entry mma_bf16_pair("mma_bf16_pair", mma<halfops::bf16, true>);

}  // namespace golden
