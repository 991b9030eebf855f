// Copies that go on while the thread does. csrc/ptx/cp_async.cuh calls these; kernels call that.
#pragma once

#include "emulator/location.h"

namespace emulator {

// 16 bytes to shared memory, of which the first `bytes` are read and the others zeros. When it happens, between here
// and the wait, is Config::completion's choice; until then the target holds nobody knows what.
void copy_async_16(void* shared, const void* global, int bytes, Location where);

// The thread's copies since the last call are a group.
void commit_copies();

// Until no more than `pending` of the thread's latest groups may be on their way.
void wait_for_copies(int pending);

}  // namespace emulator
