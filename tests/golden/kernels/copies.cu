// cp.async: 16 bytes a thread, of which some are read and the others become zeros.
#include "elements.cuh"

#include "collective/shared.cuh"
#include "ptx/cp_async.cuh"

namespace golden {

struct alignas(16) Piece {
    uint32_t word[4];
};

// Each thread takes what its neighbour in the warp has copied.
__global__ void copies_kernel(const Piece* in, const int32_t* bytes, int64_t count, Piece* out) {
    auto& pieces = halfops::shared_array<struct Pieces, Piece, kThreads>();
    pieces[threadIdx.x] = {{~0u, ~0u, ~0u, ~0u}};
    __syncthreads();
    const int64_t at = element();
    if (at < count) halfops::ptx::cp_async_16(&pieces[threadIdx.x], in + at, bytes[at]);
    halfops::ptx::cp_async_commit();
    halfops::ptx::cp_async_wait<0>();
    __syncthreads();
    if ((at ^ 1) < count) out[at ^ 1] = pieces[threadIdx.x ^ 1];
}

const Entry copies("copies", [](const Arguments& arguments) {
    const Array bytes = arguments["bytes"];
    launched(launch<copies_kernel>(one_thread_each<int32_t>(bytes), nullptr, arguments["in"].as<const Piece>(),
                                   bytes.as<const int32_t>(), bytes.count<int32_t>(), arguments["out"].as<Piece>()));
});

// Groups: the newest two may be on their way while the oldest is used.
__global__ void groups_kernel(const Piece* in, int64_t rows, Piece* out) {
    auto& stages = halfops::shared_array<struct Stages, Piece, 3 * kThreads>();
    const auto thread = threadIdx.x;
    const auto start = [&](int64_t row) {
        if (row < rows)
            halfops::ptx::cp_async_16(&stages[row % 3 * kThreads + thread], in + row * kThreads + thread, 16);
        halfops::ptx::cp_async_commit();
    };
    start(0);
    start(1);
    for (int64_t row = 0; row < rows; ++row) {
        start(row + 2);
        halfops::ptx::cp_async_wait<2>();
        __syncthreads();
        out[row * kThreads + thread] = stages[row % 3 * kThreads + (thread ^ 63)];
        __syncthreads();
    }
}

const Entry groups("groups", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    launched(launch<groups_kernel>(Grid{1, kThreads}, nullptr, in.as<const Piece>(), in.count<Piece>() / kThreads,
                                   arguments["out"].as<Piece>()));
});

}  // namespace golden
