// The four shuffles. One warp a case: which lanes take part, the argument, the width.
#include "elements.cuh"

namespace golden {

struct ShuffleCase {
    uint32_t mask;
    int32_t argument, width, unused;
};

// A row of 32 a case and kind: what each lane got; all ones where a lane takes no part.
template <class T>
__global__ void shuffles_kernel(const ShuffleCase* cases, const T* values, T* out) {
    const ShuffleCase now = cases[blockIdx.x];
    const auto lane = threadIdx.x;
    out += static_cast<int64_t>(blockIdx.x) * 4 * 32 + lane;
    const T value = values[lane];
    T got[4] = {static_cast<T>(-1), static_cast<T>(-1), static_cast<T>(-1), static_cast<T>(-1)};
    if ((now.mask >> lane & 1u) != 0) {
        got[0] = __shfl_sync(now.mask, value, now.argument, now.width);
        // Beyond these the Programming Guide says nothing of distances.
        const int distance = now.argument & 31;
        got[1] = __shfl_up_sync(now.mask, value, distance, now.width);
        got[2] = __shfl_down_sync(now.mask, value, distance, now.width);
        // This one may lead out of a segment, to a lane that takes no part.
        const int crossing = now.mask == 0xffffffffu ? distance : distance % now.width;
        got[3] = __shfl_xor_sync(now.mask, value, crossing, now.width);
    }
    for (int kind = 0; kind < 4; ++kind) out[kind * 32] = got[kind];
}

template <class T>
void shuffles(const Arguments& arguments) {
    const Array cases = arguments["cases"];
    launched(launch<shuffles_kernel<T>>(Grid{static_cast<unsigned>(cases.count<ShuffleCase>()), 32}, nullptr,
                                        cases.as<const ShuffleCase>(), arguments["values"].as<const T>(),
                                        arguments["out"].as<T>()));
}

const Entry words("shuffles", shuffles<uint32_t>);
const Entry long_words("shuffles_64", shuffles<unsigned long long>);

}  // namespace golden
