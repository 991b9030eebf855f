// Random bits as a function of what they are for: (seed, step, element, key) -> 32 bits. Philox4x32-10 (Salmon et al.
// 2011).
//
// There is no state and no sequence, so threads, chunks, launches and devices cannot change what an element gets, and a
// resumed run draws what the uninterrupted one would have drawn. key tells tensors apart that are stepped together.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace halfops {

struct Philox {
    uint32_t x0, x1, x2, x3;
};

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
inline constexpr uint32_t kPhiloxBump0 = 0x9E3779B9u, kPhiloxBump1 = 0xBB67AE85u;

// Counter and key (k0, k1) to four words.
HALFOPS_HD Philox philox(Philox c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = static_cast<uint64_t>(kPhiloxMultiplier0) * c.x0;
        const uint64_t b = static_cast<uint64_t>(kPhiloxMultiplier1) * c.x2;
        c = {static_cast<uint32_t>(b >> 32) ^ c.x1 ^ k0, static_cast<uint32_t>(b),
             static_cast<uint32_t>(a >> 32) ^ c.x3 ^ k1, static_cast<uint32_t>(a)};
        k0 += kPhiloxBump0;
        k1 += kPhiloxBump1;
    }
    return c;
}

// The four words shared by elements 4 * quad to 4 * quad + 3 of the tensor that `key` names.
HALFOPS_HD Philox random_quad(uint64_t seed, uint32_t step, uint64_t quad, uint32_t key) {
    return philox({static_cast<uint32_t>(quad), static_cast<uint32_t>(quad >> 32), step, key},
                  static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

HALFOPS_HD uint32_t random_bits(uint64_t seed, uint32_t step, uint64_t element, uint32_t key) {
    const Philox quad = random_quad(seed, step, element / 4, key);
    const uint32_t low = element % 2 == 0 ? quad.x0 : quad.x1;
    const uint32_t high = element % 2 == 0 ? quad.x2 : quad.x3;
    return element % 4 < 2 ? low : high;
}

}  // namespace halfops
