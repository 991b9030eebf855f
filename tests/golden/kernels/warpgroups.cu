// stmatrix and wgmma: pictures of shared memory and registers of lanes go in, what they become comes out.
#include "elements.cuh"

#include "collective/shared.cuh"
#include "ptx/roles.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace golden {

inline constexpr int kGroup = 128, kBytesOfA = 16384, kBytesOfB = 65536;

__global__ void stmatrix_kernel(const uint32_t* in, const int32_t* row, uint32_t* out) {
    struct alignas(16) Row {
        uint32_t word[4];
    };
    auto& tile = halfops::shared_array<struct Stored, Row, 64>();
    const auto lane = threadIdx.x;
    for (unsigned i = lane; i < 64; i += 32) tile[i] = Row{{0, 0, 0, 0}};
    __syncthreads();
    uint32_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = in[4 * lane + i];
    halfops::ptx::stmatrix_x4(&tile[row[lane]], r);
    __syncthreads();
    for (unsigned i = lane; i < 256; i += 32) out[i] = tile[i / 4].word[i % 4];
}

void stmatrix(const Arguments& arguments) {
    launched(launch<stmatrix_kernel>(Grid{1, 32}, nullptr, arguments["in"].as<const uint32_t>(),
                                     arguments["row"].as<const int32_t>(), arguments["out"].as<uint32_t>()));
}

// `how`, seven numbers a block: where a begins, its two distances, the same of b, and whether d is added to.
template <class T, int kColumns, int kTurnA, int kTurnB, bool kRegisters>
__global__ void __launch_bounds__(kGroup)
    wgmma_kernel(const uint32_t* a, const uint32_t* b, const uint32_t* registers, const int32_t* how, float* d) {
    char* shared = halfops::shared_bytes_as<char>();
    auto* words = reinterpret_cast<uint32_t*>(shared);
    for (unsigned i = threadIdx.x; i < kBytesOfA / 4; i += kGroup) words[i] = a[i];
    for (unsigned i = threadIdx.x; i < kBytesOfB / 4; i += kGroup) words[kBytesOfA / 4 + i] = b[i];
    halfops::ptx::fence_proxy_async();
    __syncthreads();
    how += 7 * blockIdx.x;
    d += (static_cast<int64_t>(blockIdx.x) * kGroup + threadIdx.x) * (kColumns / 2);
    float sums[kColumns / 2];
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) sums[i] = d[i];
    const uint64_t of_a = halfops::ptx::advanced(halfops::ptx::wgmma_descriptor(shared, how[1], how[2]), how[0]);
    const uint64_t of_b =
        halfops::ptx::advanced(halfops::ptx::wgmma_descriptor(shared + kBytesOfA, how[4], how[5]), how[3]);
    uint32_t own[4];
    for (int i = 0; i < 4; ++i) own[i] = registers[4 * threadIdx.x + i];
    halfops::ptx::wgmma_settle(sums);
    halfops::ptx::wgmma_fence();
    if constexpr (kRegisters) {
        halfops::ptx::wgmma<T, kColumns, kTurnB>(sums, own, of_b, how[6] != 0);
    } else {
        halfops::ptx::wgmma<T, kColumns, kTurnA, kTurnB>(sums, of_a, of_b, how[6] != 0);
    }
    halfops::ptx::wgmma_commit();
    halfops::ptx::wgmma_wait<0>();
    halfops::ptx::wgmma_settle(sums);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) d[i] = sums[i];
}

template <class T, int kColumns, int kTurnA, int kTurnB, bool kRegisters = false>
void wgmma(const Arguments& arguments) {
    constexpr auto kKernel = wgmma_kernel<T, kColumns, kTurnA, kTurnB, kRegisters>;
    const Array how = arguments["how"];
    constexpr unsigned kShared = kBytesOfA + kBytesOfB;
    launched(halfops::allow_shared<kKernel>(kShared));
    launched(launch<kKernel>(Grid{static_cast<unsigned>(how.count<int32_t>() / 7), kGroup, kShared}, nullptr,
                             arguments["a"].as<const uint32_t>(), arguments["b"].as<const uint32_t>(),
                             arguments["registers"].as<const uint32_t>(), how.as<const int32_t>(),
                             arguments["d"].as<float>()));
}

const Entry stmatrix_x4("stmatrix_x4", stmatrix);

// Names say the dtype, the columns, and what lines of A and B run along.
#define HALFOPS_LAYOUTS(T, n)                                                               \
    const Entry wgmma_##T##_##n##_kk("wgmma_" #T "_" #n "_kk", wgmma<halfops::T, n, 0, 0>); \
    const Entry wgmma_##T##_##n##_km("wgmma_" #T "_" #n "_km", wgmma<halfops::T, n, 0, 1>); \
    const Entry wgmma_##T##_##n##_mk("wgmma_" #T "_" #n "_mk", wgmma<halfops::T, n, 1, 0>); \
    const Entry wgmma_##T##_##n##_mm("wgmma_" #T "_" #n "_mm", wgmma<halfops::T, n, 1, 1>);
HALFOPS_LAYOUTS(f16, 8)
HALFOPS_LAYOUTS(f16, 64)
HALFOPS_LAYOUTS(f16, 256)
HALFOPS_LAYOUTS(bf16, 64)
#undef HALFOPS_LAYOUTS
const Entry wgmma_f16_128_kk("wgmma_f16_128_kk", wgmma<halfops::f16, 128, 0, 0>);
const Entry wgmma_f16_128_mm("wgmma_f16_128_mm", wgmma<halfops::f16, 128, 1, 1>);
const Entry wgmma_f16_192_kk("wgmma_f16_192_kk", wgmma<halfops::f16, 192, 0, 0>);
const Entry wgmma_f16_192_mm("wgmma_f16_192_mm", wgmma<halfops::f16, 192, 1, 1>);
const Entry wgmma_f16_64_rk("wgmma_f16_64_rk", wgmma<halfops::f16, 64, 0, 0, true>);
const Entry wgmma_f16_64_rm("wgmma_f16_64_rm", wgmma<halfops::f16, 64, 0, 1, true>);
const Entry wgmma_bf16_64_rk("wgmma_bf16_64_rk", wgmma<halfops::bf16, 64, 0, 0, true>);
const Entry wgmma_bf16_64_rm("wgmma_bf16_64_rm", wgmma<halfops::bf16, 64, 0, 1, true>);

}  // namespace golden
