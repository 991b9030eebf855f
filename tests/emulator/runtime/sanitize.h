// What the sanitizers have to be told about fibers, shared memory and the order of memory accesses. In a build without
// the sanitizer in question these functions do nothing.
#pragma once

#include <cstddef>

namespace emulator {

// AddressSanitizer: which stack is in use, and which memory may not be touched.
namespace address {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kActive = true;
// `saved` keeps what belongs to the stack that is left; nullptr if nobody comes back to it.
void before_switch(void** saved, const void* bottom, size_t bytes);
void after_switch(void* saved, const void** left_bottom, size_t* left_bytes);
void forbid(const void* memory, size_t bytes);
void allow(const void* memory, size_t bytes);
#else
inline constexpr bool kActive = false;
inline void before_switch(void**, const void*, size_t) {}
inline void after_switch(void*, const void**, size_t*) {}
inline void forbid(const void*, size_t) {}
inline void allow(const void*, size_t) {}
#endif

}  // namespace address

// ThreadSanitizer as the race detector. It believes that every CUDA thread is a thread (a "context" here), although
// they share one, and reports accesses that no release and acquire put in order, in whichever order they ran.
//
// The runtime is compiled without -fsanitize=thread, so that its own accesses are not looked at, but it calls malloc
// and other functions that the sanitizer intercepts. That is why it runs in the scheduler's context: see EnterRuntime
// in scheduler.h. For the same reason it fills memory that kernels see with plain loops, not with memset.
namespace race {

using Context = void*;

// Something that threads synchronise on; the sanitizer knows it by its address.
struct Sync {
    alignas(8) char place[8] = {};
};

#if defined(HALFOPS_EMULATOR_RACES)
inline constexpr bool kActive = true;
Context create();
void destroy(Context context);
Context current();
void rename(Context context, const char* name);
void switch_to(Context context);
// In the current context.
void release(Sync& sync);
void acquire(Sync& sync);
void read(const void* memory, size_t bytes, const void* instruction);
void write(const void* memory, size_t bytes, const void* instruction);
// An atomic addition to each element of 2 or 4 bytes.
void add(void* memory, size_t bytes, size_t element_bytes, const void* instruction);
#else
inline constexpr bool kActive = false;
inline Context create() { return nullptr; }
inline void destroy(Context) {}
inline Context current() { return nullptr; }
inline void rename(Context, const char*) {}
inline void switch_to(Context) {}
inline void release(Sync&) {}
inline void acquire(Sync&) {}
inline void read(const void*, size_t, const void*) {}
inline void write(const void*, size_t, const void*) {}
inline void add(void*, size_t, size_t, const void*) {}
#endif

}  // namespace race

// memset that no sanitizer takes for an access of the kernel.
inline void fill_unseen(void* memory, unsigned char value, size_t bytes) {
    volatile unsigned char* target = static_cast<volatile unsigned char*>(memory);
    for (size_t i = 0; i < bytes; ++i) target[i] = value;
}

// memcpy that the race detector does not take for an access of the kernel; the address sanitizer looks at it.
inline void copy_unseen(void* target, const void* source, size_t bytes) {
    volatile unsigned char* to = static_cast<volatile unsigned char*>(target);
    const volatile unsigned char* from = static_cast<const volatile unsigned char*>(source);
    for (size_t i = 0; i < bytes; ++i) to[i] = from[i];
}

}  // namespace emulator
