// The copy engine. csrc/ptx/tma.cuh and csrc/collective/tensor_map.cu call these; kernels and launchers call those.
#pragma once

#include <cstdint>

#include "emulator/location.h"
#include "emulator/runtime_api.h"

namespace emulator {

enum class TensorFormat : int32_t { f32, f16, bf16 };

// Describes a tensor in the 128 bytes at `map`, under the conditions of cuTensorMapEncodeTiled: csrc/collective/
// tensor_map.h says them. `swizzle` is 0, 64 or 128 bytes.
cudaError_t make_tensor_map(const void* data, TensorFormat format, const int64_t (&extent)[3],
                            const int64_t (&pitch)[2], const int (&box)[3], int swizzle, void* map);

// Nothing but that there is a map.
void prefetch_tensor_map(const void* map, Location where);

// The box at (c0, c1, c2) to shared memory: of this block, or of those of the cluster whose bit is set. When it
// happens, between here and the wait at the barrier, is Config::completion's choice.
void tma_load(void* shared, const void* map, int c0, int c1, int c2, uint64_t* barrier, Location where);
void tma_load_multicast(void* shared, const void* map, int c0, int c1, int c2, uint64_t* barrier, uint16_t blocks,
                        Location where);

// The box from shared memory to global, or added to what is there. When it is read, and when written, is
// Config::completion's choice.
void tma_store(const void* map, int c0, int c1, int c2, const void* shared, Location where);
void tma_add(const void* map, int c0, int c1, int c2, const void* shared, Location where);

// The thread's stores since the last call are a group.
void tma_commit(Location where);
// Until no more than `pending` of the thread's latest groups have to be read, or else to be written.
void tma_wait(int pending, bool read, Location where);

void fence_proxy_async(Location where);

}  // namespace emulator
