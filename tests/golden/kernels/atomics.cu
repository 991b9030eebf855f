// Atomic operations of a whole grid on the same words. Who gets which old value is anybody's: what is kept does not
// depend on it.
#include "elements.cuh"

namespace golden {

__global__ void atomics_kernel(const uint32_t* values, uint32_t* words, unsigned long long* wide, float* reals,
                               uint32_t* tickets) {
    const int64_t at = element();
    const uint32_t value = values[at];
    atomicAdd(&words[0], value);
    atomicMax(&words[1], value);
    atomicMin(&words[2], value);
    atomicOr(&words[3], 1u << value % 32);
    atomicAnd(&words[4], ~(1u << value % 31));
    atomicInc(&words[5], 9u);
    // Everything that was put in comes out once, the last one stays.
    atomicAdd(&words[6], atomicExch(&words[7], value));
    for (unsigned seen = words[8], before = seen + 1; before != seen;) {
        before = seen;
        seen = atomicCAS(&words[8], before, before + value % 8);
    }
    auto* numbers = reinterpret_cast<int*>(words);
    atomicAdd(&numbers[9], -static_cast<int>(value % 1000));
    atomicMax(&numbers[10], static_cast<int>(value));
    atomicMin(&numbers[11], static_cast<int>(value));
    atomicAdd(&wide[0], static_cast<unsigned long long>(value) << 20);
    atomicMax(&wide[1], static_cast<unsigned long long>(value) << 20);
    atomicMin(&wide[2], static_cast<unsigned long long>(value) << 20);
    // Whole numbers whose sums are below 2^24: exact in whatever order.
    atomicAdd(&reals[0], static_cast<float>(value % 64));
    tickets[atomicAdd(&words[12], 1u)] = 1;
}

// words[6] + words[7] is what does not depend on the order.
__global__ void settle_kernel(uint32_t* words) {
    words[6] += words[7];
    words[7] = 0;
}

const Entry atomics("atomics", [](const Arguments& arguments) {
    const Array values = arguments["values"], words = arguments["words"];
    launched(launch<atomics_kernel>(one_thread_each<uint32_t>(values), nullptr, values.as<const uint32_t>(),
                                    words.as<uint32_t>(), arguments["wide"].as<unsigned long long>(),
                                    arguments["reals"].as<float>(), arguments["tickets"].as<uint32_t>()));
    launched(launch<settle_kernel>(Grid{1, 1}, nullptr, words.as<uint32_t>()));
});

}  // namespace golden
