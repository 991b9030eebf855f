#include "runtime/sanitize.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

// A thread that meets an error is left where it stands, so what it had allocated is never freed: no leak check.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() { return "detect_leaks=0"; }

namespace emulator::address {

void before_switch(void** saved, const void* bottom, size_t bytes) {
    __sanitizer_start_switch_fiber(saved, bottom, bytes);
}

void after_switch(void* saved, const void** left_bottom, size_t* left_bytes) {
    __sanitizer_finish_switch_fiber(saved, left_bottom, left_bytes);
}

void forbid(const void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
void allow(const void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }

}  // namespace emulator::address
#endif

#if defined(HALFOPS_EMULATOR_RACES)
#include <sanitizer/tsan_interface.h>

extern "C" void __tsan_acquire(void* sync);
extern "C" void __tsan_release(void* sync);
extern "C" void __tsan_read_range_pc(void* memory, size_t bytes, void* instruction);
extern "C" void __tsan_write_range_pc(void* memory, size_t bytes, void* instruction);
extern "C" void __tsan_func_entry(void* call);
extern "C" void __tsan_func_exit();
extern "C" uint16_t __tsan_atomic16_fetch_add(volatile uint16_t* memory, uint16_t value, int order);
extern "C" uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* memory, uint32_t value, int order);

namespace emulator::race {

Context create() { return __tsan_create_fiber(0); }
void destroy(Context context) { __tsan_destroy_fiber(context); }
Context current() { return __tsan_get_current_fiber(); }
void rename(Context context, const char* name) { __tsan_set_fiber_name(context, name); }

// A switch alone puts nothing in order: only barriers and their like do.
void switch_to(Context context) { __tsan_switch_to_fiber(context, __tsan_switch_to_fiber_no_sync); }

void release(Sync& sync) { __tsan_release(sync.place); }
void acquire(Sync& sync) { __tsan_acquire(sync.place); }

void read(const void* memory, size_t bytes, const void* instruction) {
    __tsan_read_range_pc(const_cast<void*>(memory), bytes, const_cast<void*>(instruction));
}
void write(const void* memory, size_t bytes, const void* instruction) {
    __tsan_write_range_pc(const_cast<void*>(memory), bytes, const_cast<void*>(instruction));
}

// The sanitizer has an atomic addition only as a function that adds: nothing, here.
void add(void* memory, size_t bytes, size_t element_bytes, const void* instruction) {
    __tsan_func_entry(const_cast<void*>(instruction));
    for (size_t i = 0; i < bytes / element_bytes; ++i) {
        if (element_bytes == 2) {
            __tsan_atomic16_fetch_add(static_cast<uint16_t*>(memory) + i, 0, __ATOMIC_RELAXED);
        } else {
            __tsan_atomic32_fetch_add(static_cast<uint32_t*>(memory) + i, 0, __ATOMIC_RELAXED);
        }
    }
    __tsan_func_exit();
}

}  // namespace emulator::race
#endif
