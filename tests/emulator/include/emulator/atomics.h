// Atomic operations. Real atomic instructions of the host, so that the race detector knows them as such; relaxed,
// because CUDA's atomics do not order other memory accesses either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "emulator/location.h"

namespace emulator {

// An error if the address is not a multiple of the size; also a moment at which other threads may run.
void before_atomic(const char* operation, const void* address, size_t size, Location where);

// The old value; `change` computes the new one from it.
template <class T, class Change>
T atomic_update(const char* operation, T* address, Location where, const Change& change) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
    before_atomic(operation, address, sizeof(T), where);
    Bits* memory = reinterpret_cast<Bits*>(address);
    Bits seen = __atomic_load_n(memory, __ATOMIC_RELAXED);
    for (;;) {
        const T old = __builtin_bit_cast(T, seen);
        const Bits wanted = __builtin_bit_cast(Bits, static_cast<T>(change(old)));
        if (__atomic_compare_exchange_n(memory, &seen, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
    }
}

}  // namespace emulator

// The value's type follows the address, as an overload of the device would convert it.
template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    // Unsigned arithmetic wraps; on the device signed atomics do too.
    if constexpr (std::is_integral_v<T>) {
        using Wrapping = std::make_unsigned_t<T>;
        return emulator::atomic_update("atomicAdd", address, where, [value](T old) {
            return static_cast<T>(static_cast<Wrapping>(old) + static_cast<Wrapping>(value));
        });
    } else {
        return emulator::atomic_update("atomicAdd", address, where, [value](T old) { return old + value; });
    }
}

template <class T>
T atomicMax(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicMax", address, where, [value](T old) { return old < value ? value : old; });
}

template <class T>
T atomicMin(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicMin", address, where, [value](T old) { return value < old ? value : old; });
}

template <class T>
T atomicExch(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicExch", address, where, [value](T) { return value; });
}

template <class T>
T atomicOr(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicOr", address, where, [value](T old) { return old | value; });
}

template <class T>
T atomicAnd(T* address, std::type_identity_t<T> value, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicAnd", address, where, [value](T old) { return old & value; });
}

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value,
            emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicCAS", address, where,
                                   [expected, value](T old) { return old == expected ? value : old; });
}

// Counts up to `limit` and starts again at 0.
inline unsigned atomicInc(unsigned* address, unsigned limit, emulator::Location where = emulator::Location::current()) {
    return emulator::atomic_update("atomicInc", address, where,
                                   [limit](unsigned old) { return old >= limit ? 0u : old + 1; });
}
