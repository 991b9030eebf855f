// Votes and reductions of the lanes of a mask, and of a block whose last warp is not full.
#include "elements.cuh"

namespace golden {

struct VoteCase {
    uint32_t mask, predicates;
};

// Eight words a lane; all ones where it takes no part.
__global__ void votes_kernel(const VoteCase* cases, uint32_t* out) {
    const VoteCase now = cases[blockIdx.x];
    const auto lane = threadIdx.x;
    uint32_t got[8];
    for (uint32_t& word : got) word = 0xffffffffu;
    if ((now.mask >> lane & 1u) != 0) {
        const int predicate = static_cast<int>(now.predicates >> lane & 1u);
        got[0] = __ballot_sync(now.mask, predicate);
        got[1] = static_cast<uint32_t>(__any_sync(now.mask, predicate));
        got[2] = static_cast<uint32_t>(__all_sync(now.mask, predicate));
        got[3] = __match_any_sync(now.mask, static_cast<unsigned>(predicate) * 4 + lane / 16);
        got[4] = __reduce_add_sync(now.mask, predicate * 1000u + lane);
        got[5] = __reduce_max_sync(now.mask, predicate * 1000u + lane);
        got[6] = static_cast<uint32_t>(__reduce_min_sync(now.mask, predicate * 7 - static_cast<int>(lane)));
        got[7] = __reduce_xor_sync(now.mask, predicate << lane);
    }
    for (int i = 0; i < 8; ++i) out[(static_cast<int64_t>(blockIdx.x) * 8 + i) * 32 + lane] = got[i];
}

const Entry votes("votes", [](const Arguments& arguments) {
    const Array cases = arguments["cases"];
    launched(launch<votes_kernel>(Grid{static_cast<unsigned>(cases.count<VoteCase>()), 32}, nullptr,
                                  cases.as<const VoteCase>(), arguments["out"].as<uint32_t>()));
});

// A block a row of predicates; three words a thread.
__global__ void block_votes_kernel(const int32_t* predicates, int32_t* out) {
    const int64_t at = element();
    const int predicate = predicates[at];
    out[3 * at] = __syncthreads_or(predicate) != 0;
    out[3 * at + 1] = __syncthreads_and(predicate) != 0;
    out[3 * at + 2] = __syncthreads_count(predicate);
}

const Entry block_votes("block_votes", [](const Arguments& arguments) {
    const Array predicates = arguments["predicates"];
    const auto threads = static_cast<unsigned>(arguments["threads"].bytes);  // a size: entries see no values
    launched(launch<block_votes_kernel>(Grid{static_cast<unsigned>(predicates.count<int32_t>()) / threads, threads},
                                        nullptr, predicates.as<const int32_t>(), arguments["out"].as<int32_t>()));
});

}  // namespace golden
