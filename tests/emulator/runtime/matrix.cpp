// ldmatrix and mma.
#include "emulator/matrix.h"

#include "emulator/config.h"
#include "emulator/counters.h"
#include "runtime/error.h"
#include "runtime/half.h"
#include "runtime/scheduler.h"

namespace emulator {

namespace {

constexpr size_t kRowBytes = 16;

struct Load {
    const void* row;
    unsigned matrices;
    bool transposed;
    uint32_t* registers;
};

struct StoreMatrices {
    void* row;
    const uint32_t* registers;
};

struct MultiplyAdd {
    Half format;
    Steps steps;
    const uint32_t* a;
    const uint32_t* b;
    float* d;
};

void execute_load(const Meeting& meeting) {
    const Load& first = meeting.of<Load>(0);
    for (unsigned matrix = 0; matrix < first.matrices; ++matrix) {
        uint16_t element[8][8];
        Phase phase;
        ++counters().matrices;
        for (unsigned row = 0; row < 8; ++row) {
            const void* address = meeting.of<Load>(matrix * 8 + row).row;
            copy_unseen(element[row], address, kRowBytes);
            if (phase.conflicts(address)) ++counters().matrix_conflicts;
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
            const unsigned line = lane / 4, pair = 2 * (lane % 4);
            const uint32_t low = first.transposed ? element[pair][line] : element[line][pair];
            const uint32_t high = first.transposed ? element[pair + 1][line] : element[line][pair + 1];
            meeting.of<Load>(lane).registers[matrix] = low | high << 16;
        }
    }
}

void execute_store_matrices(const Meeting& meeting) {
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
        Phase phase;
        ++counters().matrices;
        for (unsigned row = 0; row < 8; ++row) {
            void* address = meeting.of<StoreMatrices>(matrix * 8 + row).row;
            if (phase.conflicts(address)) ++counters().matrix_conflicts;
            for (unsigned pair = 0; pair < 4; ++pair) {
                const uint32_t* from = &meeting.of<StoreMatrices>(row * 4 + pair).registers[matrix];
                copy_unseen(static_cast<char*>(address) + 4 * pair, from, sizeof *from);
            }
        }
    }
}

void check_row(const char* operation, const void* row, Location where) {
    if (reinterpret_cast<uintptr_t>(row) % kRowBytes != 0) {
        fail(format("%s of a row at %p, which is not a multiple of 16", operation, row), where);
    }
    if (!current_block().shared.contains(row, kRowBytes)) {
        fail(format("%s of a row at %p, which is not in the block's shared memory", operation, row), where);
    }
}

// Both elements of a register, which are neighbours `apart` places from each other.
void unpack(Half format, uint32_t packed, double* first, unsigned apart) {
    first[0] = value_of(format, packed & 0xffffu);
    first[apart] = value_of(format, packed >> 16);
}

// Products of 16-bit numbers are exact in double, and their sum nearly so: one rounding to float for each step,
// whatever the hardware does in between. Accumulators of tensor cores keep fewer bits and truncate, in ways that are
// documented nowhere.
void execute_multiply_add(const Meeting& meeting) {
    double a[16][16], b[16][8];
    const MultiplyAdd& first = meeting.of<MultiplyAdd>(0);
    for (unsigned lane = 0; lane < 32; ++lane) {
        const MultiplyAdd& own = meeting.of<MultiplyAdd>(lane);
        const unsigned group = lane / 4, pair = 2 * (lane % 4);
        for (unsigned i = 0; i < 4; ++i) unpack(first.format, own.a[i], &a[group + i % 2 * 8][pair + i / 2 * 8], 1);
        for (unsigned i = 0; i < 2; ++i) unpack(first.format, own.b[i], &b[pair + i * 8][group], 8);
    }
    const unsigned step = first.steps == Steps::one_of_16 ? 16 : 8;
    for (unsigned lane = 0; lane < 32; ++lane) {
        float* d = meeting.of<MultiplyAdd>(lane).d;
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            for (unsigned begin = 0; begin < 16; begin += step) {
                double sum = d[i];
                for (unsigned k = begin; k < begin + step; ++k) sum += a[row][k] * b[k][column];
                d[i] = static_cast<float>(sum);
            }
        }
    }
}

}  // namespace

void load_matrices(uint32_t* registers, int matrices, bool transposed, const void* row, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    const Thread& thread = current_thread();
    const bool gives_row = thread.lane() < static_cast<unsigned>(matrices) * 8;
    // PTX ISA: on sm_75 all lanes give valid addresses, needed or not.
    if (gives_row || config().capability < 80) {
        check_row("ldmatrix", row, where);
    }
    if (gives_row) read_as(thread.fiber.context(), row, kRowBytes, instruction);
    Load operand{row, static_cast<unsigned>(matrices), transposed, registers};
    meet_whole_warp("ldmatrix", &operand, execute_load, where);
}

void store_matrices(void* row, const uint32_t* registers, Location where) {
    const void* instruction = __builtin_return_address(0);
    const EnterRuntime entered;
    require_capability("stmatrix", 90, where);
    check_row("stmatrix", row, where);
    write_as(current_thread().fiber.context(), row, kRowBytes, instruction);
    StoreMatrices operand{row, registers};
    meet_whole_warp("stmatrix", &operand, execute_store_matrices, where);
}

void multiply_add(Half format, Steps steps, float* d, const uint32_t* a, const uint32_t* b, Location where) {
    const EnterRuntime entered;
    if (format == Half::bf16) require_capability("mma of bf16", 80, where);
    if (config().compiled_for < 80) steps = Steps::two_of_8;
    MultiplyAdd operand{format, steps, a, b, d};
    meet_whole_warp("mma", &operand, execute_multiply_add, where);
}

}  // namespace emulator
