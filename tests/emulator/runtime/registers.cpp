#include "runtime/registers.h"

#include "emulator/roles.h"
#include "runtime/error.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

constexpr int kAllRegisters = 64 * 1024;  // of a multiprocessor

// By the last lane of a warp, for the warp.
void execute_set_registers(const Meeting& meeting) {
    Block& block = current_block();
    const int registers = meeting.of<const int>(0);
    const unsigned own = current_thread().warp(), first = own / kWarpsOfGroup * kWarpsOfGroup;
    block.registers[own].calls.push_back({registers, meeting.where});
    const size_t count = block.registers[own].calls.size();
    for (unsigned warp = first; warp < first + kWarpsOfGroup; ++warp) {
        const RegistersOfWarp& other = block.registers[warp];
        if (other.calls.size() >= count) {
            const int others = other.calls[count - 1].registers;
            if (others == registers) continue;
            fail(format("setmaxnreg %d, but %d by warp %u of the warpgroup", registers, others, warp), meeting.where);
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
            if (block.threads[warp * 32 + lane].state != State::exited) continue;
            fail(format("setmaxnreg, but threads of warp %u of the warpgroup have exited", warp), meeting.where);
        }
    }
    int all = 0;
    for (const RegistersOfWarp& warp : block.registers)
        all += warp.calls.empty() ? 0 : 32 * warp.calls.back().registers;
    if (all > kAllRegisters) {
        fail(format("setmaxnreg brings the block to %d registers, more than %d", all, kAllRegisters), meeting.where);
    }
}

}  // namespace

void set_registers(int registers, Location where) {
    const EnterRuntime entered;
    require_capability("setmaxnreg", 90, where);
    if (registers < 24 || registers > 256 || registers % 8 != 0) {
        fail(format("setmaxnreg takes multiples of 8 from 24 to 256, not %d", registers), where);
    }
    const size_t group = current_thread().warp() / kWarpsOfGroup, threads = current_block().threads.size();
    if (threads < (group + 1) * kWarpsOfGroup * 32) {
        fail(format("setmaxnreg needs a whole warpgroup, of this one the block has %zu threads",
                    threads - group * kWarpsOfGroup * 32),
             where);
    }
    meet_whole_warp("setmaxnreg", &registers, execute_set_registers, where);
}

void refuse_exit_without_registers(const Thread& thread) {
    const std::vector<RegistersOfWarp>& warps = thread.block.registers;
    const unsigned own = thread.warp(), first = own / kWarpsOfGroup * kWarpsOfGroup;
    const size_t count = warps[own].calls.size();
    for (unsigned warp = first; warp < first + kWarpsOfGroup && warp < warps.size(); ++warp) {
        if (warps[warp].calls.size() <= count) continue;
        fail(format("the thread exits, and warp %u of its warpgroup has said setmaxnreg, which its own has not", warp),
             warps[warp].calls[count].where, thread);
    }
}

}  // namespace emulator
