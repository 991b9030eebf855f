// The copy engine, barriers that count bytes, and clusters: boxes of a tensor as they lie in shared memory and back.
#include "elements.cuh"

#include "collective/shared.cuh"
#include "collective/tensor_map.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/roles.cuh"
#include "ptx/tma.cuh"

namespace golden {

inline constexpr unsigned kBoxThreads = 128;

// `how`, which lies on the GPU like every array: dtype, extents, pitches in bytes, box, bytes of the swizzle.
struct How {
    int64_t numbers[10];

    explicit How(const Arguments& arguments) {
        launched(cudaMemcpyAsync(numbers, arguments["how"].data, sizeof numbers, cudaMemcpyDeviceToHost, nullptr));
    }
    int64_t operator[](int i) const { return numbers[i]; }
};

halfops::ptx::TensorMap described(const Arguments& arguments) {
    const How how(arguments);
    const auto swizzle = how[9] == 128  ? halfops::Swizzle::bytes_128
                         : how[9] == 64 ? halfops::Swizzle::bytes_64
                                        : halfops::Swizzle::none;
    const auto box = [&](int i) { return static_cast<int>(how[6 + i]); };
    halfops::ptx::TensorMap map;
    launched(halfops::make_tensor_map({arguments["tensor"].data,
                                       static_cast<halfops::DType>(how[0]),
                                       {how[1], how[2], how[3]},
                                       {how[4], how[5]},
                                       {box(0), box(1), box(2)},
                                       swizzle},
                                      &map));
    return map;
}

// A box for each block, at three coordinates.
__global__ void __launch_bounds__(kBoxThreads)
    load_kernel(const __grid_constant__ halfops::ptx::TensorMap map, const int32_t* at, int bytes, uint32_t* out) {
    char* shared = halfops::shared_bytes_as<char>();
    auto& barrier = halfops::shared_array<struct Loaded, uint64_t, 1>();
    if (threadIdx.x == 0) {
        halfops::ptx::mbarrier_init(barrier, 1);
        halfops::ptx::fence_mbarrier_init();
    }
    __syncthreads();
    at += 3 * blockIdx.x;
    if (threadIdx.x == 0) {
        halfops::ptx::mbarrier_arrive_expect_bytes(barrier, bytes);
        halfops::ptx::tma_load(shared, map, at[0], at[1], at[2], barrier);
    }
    halfops::ptx::mbarrier_wait(barrier, 0);
    for (int i = static_cast<int>(threadIdx.x); i < bytes / 4; i += kBoxThreads) {
        out[static_cast<int64_t>(blockIdx.x) * (bytes / 4) + i] = reinterpret_cast<uint32_t*>(shared)[i];
    }
}

void tma_load(const Arguments& arguments) {
    const Array at = arguments["at"], out = arguments["out"];
    const unsigned blocks = static_cast<unsigned>(at.count<int32_t>() / 3);
    const auto bytes = static_cast<unsigned>(out.count<uint32_t>() * 4 / blocks);
    launched(launch<load_kernel>(Grid{blocks, kBoxThreads, bytes}, nullptr, described(arguments),
                                 at.as<const int32_t>(), static_cast<int>(bytes), out.as<uint32_t>()));
}

// A picture of shared memory to a box, stored or added; one block, box after box.
template <bool kAdds>
__global__ void __launch_bounds__(kBoxThreads)
    store_kernel(const __grid_constant__ halfops::ptx::TensorMap map, const int32_t* at, int boxes, int bytes,
                 const uint32_t* in) {
    char* shared = halfops::shared_bytes_as<char>();
    for (int n = 0; n < boxes; ++n) {
        for (int i = static_cast<int>(threadIdx.x); i < bytes / 4; i += kBoxThreads) {
            reinterpret_cast<uint32_t*>(shared)[i] = in[n * (bytes / 4) + i];
        }
        halfops::ptx::fence_proxy_async();
        __syncthreads();
        if (threadIdx.x == 0) {
            if constexpr (kAdds) {
                halfops::ptx::tma_add(map, at[3 * n], at[3 * n + 1], at[3 * n + 2], shared);
            } else {
                halfops::ptx::tma_store(map, at[3 * n], at[3 * n + 1], at[3 * n + 2], shared);
            }
            halfops::ptx::tma_commit();
            halfops::ptx::tma_wait<0>();
        }
        __syncthreads();
    }
}

template <bool kAdds>
void tma_out(const Arguments& arguments) {
    const Array at = arguments["at"], in = arguments["in"];
    const int boxes = static_cast<int>(at.count<int32_t>() / 3);
    const auto bytes = static_cast<unsigned>(in.count<uint32_t>() * 4) / static_cast<unsigned>(boxes);
    launched(launch<store_kernel<kAdds>>(Grid{1, kBoxThreads, bytes}, nullptr, described(arguments),
                                         at.as<const int32_t>(), boxes, static_cast<int>(bytes),
                                         in.as<const uint32_t>()));
}

// Two blocks of a cluster: each asks for one half of a box's rows for both, frees the other's slot, and is freed by it;
// three times over, so that parities come back. Then what it has, and a number from the other one's shared memory.
__global__ void __launch_bounds__(kBoxThreads) cluster_kernel(const __grid_constant__ halfops::ptx::TensorMap map,
                                                              int rows, int bytes, uint32_t* out, float* others) {
    char* shared = halfops::shared_bytes_as<char>();
    auto& barriers = halfops::shared_array<struct OfCluster, uint64_t, 2>();
    auto& own = halfops::shared_array<struct Own, float, 1>();
    uint64_t *full = &barriers[0], *empty = &barriers[1];
    const unsigned rank = halfops::ptx::cluster_rank();
    if (threadIdx.x == 0) {
        halfops::ptx::mbarrier_init(full, 1);
        halfops::ptx::mbarrier_init(empty, 2);
        halfops::ptx::fence_mbarrier_init();
        own[0] = 100.0f + static_cast<float>(blockIdx.x);
    }
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
    for (unsigned turn = 0; turn < 3; ++turn) {
        if (threadIdx.x == 0) {
            halfops::ptx::mbarrier_wait(empty, (turn & 1) ^ 1);
            halfops::ptx::mbarrier_arrive_expect_bytes(full, bytes);
            halfops::ptx::tma_load_multicast(shared + rank * static_cast<unsigned>(bytes) / 2, map, 0,
                                             static_cast<int>(rank) * rows / 2, static_cast<int>(turn), full, 3);
        }
        halfops::ptx::mbarrier_wait(full, turn & 1);
        const int64_t at = (static_cast<int64_t>(turn) * gridDim.x + blockIdx.x) * (bytes / 4);
        for (int i = static_cast<int>(threadIdx.x); i < bytes / 4; i += kBoxThreads) {
            out[at + i] = reinterpret_cast<uint32_t*>(shared)[i];
        }
        __syncthreads();
        if (threadIdx.x < 2) halfops::ptx::mbarrier_arrive_at(empty, threadIdx.x);
    }
    if (threadIdx.x == 0) others[blockIdx.x] = halfops::ptx::load_from_block(own, rank ^ 1);
    halfops::ptx::cluster_arrive();
    halfops::ptx::cluster_wait();
}

void cluster(const Arguments& arguments) {
    const Array out = arguments["out"];
    const How how(arguments);
    const auto bytes = static_cast<unsigned>(out.count<uint32_t>() * 4 / 6);
    Grid grid{2, kBoxThreads, bytes};
    grid.cluster = 2;
    launched(launch<cluster_kernel>(grid, nullptr, described(arguments), static_cast<int>(2 * how[7]),
                                    static_cast<int>(bytes), out.as<uint32_t>(), arguments["others"].as<float>()));
}

// A producer that gives registers away and tells two warpgroups by named barriers; they hand a sum back.
__global__ void __launch_bounds__(384, 1) roles_kernel(const uint32_t* in, uint32_t* out) {
    auto& number = halfops::shared_array<struct Handed, uint32_t, 384>();
    const unsigned group = threadIdx.x / 128;
    if (group == 0) {
        halfops::ptx::give_registers<40>();
        number[threadIdx.x] = in[threadIdx.x];
        halfops::ptx::named_barrier_arrive<384>(1);
    } else {
        halfops::ptx::take_registers<232>();
        halfops::ptx::named_barrier_sync<384>(1);
        out[threadIdx.x - 128] = number[threadIdx.x % 128] * group;
    }
}

void roles(const Arguments& arguments) {
    launched(launch<roles_kernel>(Grid{1, 384}, nullptr, arguments["in"].as<const uint32_t>(),
                                  arguments["out"].as<uint32_t>()));
}

const Entry tma_load_("tma_load", tma_load);
const Entry tma_store_("tma_store", tma_out<false>);
const Entry tma_add_("tma_add", tma_out<true>);
const Entry cluster_("cluster", cluster);
const Entry roles_("roles", roles);

}  // namespace golden
