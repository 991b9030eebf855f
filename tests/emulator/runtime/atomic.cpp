#include "emulator/atomics.h"

#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

void before_atomic(const char* operation, const void* address, size_t size, Location where) {
    const EnterRuntime entered;
    if (reinterpret_cast<uintptr_t>(address) % size != 0) {
        fail(format("%s on %p, which is not a multiple of %zu", operation, address, size), where);
    }
    maybe_give_way();
}

}  // namespace emulator
