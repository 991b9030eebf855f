// What the lanes of a warp do together: shuffles, votes, reductions. Each call meets the calls of the other lanes in
// its mask; see runtime/warp.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/location.h"

namespace emulator {

enum class Shuffle { from, up, down, exclusive_or };
enum class WarpReduction { add, minimum, maximum, bitwise_and, bitwise_or, bitwise_xor };

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int lane, int width, Location where);
uint32_t ballot(const char* operation, uint32_t mask, bool predicate, Location where);
uint32_t match_any(uint32_t mask, uint64_t value, Location where);
int64_t warp_reduce(WarpReduction kind, uint32_t mask, int64_t value, Location where);
void warp_barrier(uint32_t mask, Location where);

template <class T>
T shuffle_value(Shuffle kind, uint32_t mask, T value, int lane, int width, Location where) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = shuffle(kind, mask, bits, lane, width, where);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace emulator

template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32,
              emulator::Location where = emulator::Location::current()) {
    return emulator::shuffle_value(emulator::Shuffle::from, mask, value, lane, width, where);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                 emulator::Location where = emulator::Location::current()) {
    return emulator::shuffle_value(emulator::Shuffle::up, mask, value, static_cast<int>(delta), width, where);
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                   emulator::Location where = emulator::Location::current()) {
    return emulator::shuffle_value(emulator::Shuffle::down, mask, value, static_cast<int>(delta), width, where);
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32,
                  emulator::Location where = emulator::Location::current()) {
    return emulator::shuffle_value(emulator::Shuffle::exclusive_or, mask, value, lane_mask, width, where);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::ballot("__ballot_sync", mask, predicate != 0, where);
}

inline int __any_sync(uint32_t mask, int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::ballot("__any_sync", mask, predicate != 0, where) != 0;
}

inline int __all_sync(uint32_t mask, int predicate, emulator::Location where = emulator::Location::current()) {
    return emulator::ballot("__all_sync", mask, predicate == 0, where) == 0;
}

template <class T>
uint32_t __match_any_sync(uint32_t mask, T value, emulator::Location where = emulator::Location::current()) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return emulator::match_any(mask, bits, where);
}

// int or unsigned, as on the device.
template <class T>
T __reduce_add_sync(uint32_t mask, T value, emulator::Location where = emulator::Location::current()) {
    return static_cast<T>(emulator::warp_reduce(emulator::WarpReduction::add, mask, value, where));
}

template <class T>
T __reduce_min_sync(uint32_t mask, T value, emulator::Location where = emulator::Location::current()) {
    return static_cast<T>(emulator::warp_reduce(emulator::WarpReduction::minimum, mask, value, where));
}

template <class T>
T __reduce_max_sync(uint32_t mask, T value, emulator::Location where = emulator::Location::current()) {
    return static_cast<T>(emulator::warp_reduce(emulator::WarpReduction::maximum, mask, value, where));
}

inline uint32_t __reduce_and_sync(uint32_t mask, uint32_t value,
                                  emulator::Location where = emulator::Location::current()) {
    return static_cast<uint32_t>(emulator::warp_reduce(emulator::WarpReduction::bitwise_and, mask, value, where));
}

inline uint32_t __reduce_or_sync(uint32_t mask, uint32_t value,
                                 emulator::Location where = emulator::Location::current()) {
    return static_cast<uint32_t>(emulator::warp_reduce(emulator::WarpReduction::bitwise_or, mask, value, where));
}

inline uint32_t __reduce_xor_sync(uint32_t mask, uint32_t value,
                                  emulator::Location where = emulator::Location::current()) {
    return static_cast<uint32_t>(emulator::warp_reduce(emulator::WarpReduction::bitwise_xor, mask, value, where));
}

inline void __syncwarp(uint32_t mask = 0xffffffffu, emulator::Location where = emulator::Location::current()) {
    emulator::warp_barrier(mask, where);
}
