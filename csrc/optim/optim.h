// Front door of the optim room: one step of an optimizer for a list of tensors of any dtypes and groups.
//
// The caller has checked everything; nothing here fails. Engines skip the whole step, step counts included, when the
// gate (gate.h) is closed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/chunk_table.h"
#include "core/cuda_status.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "math/update/all.h"

namespace halfops::optim {

enum class MasterFormat : int32_t { none, split, f32 };
enum class Rounding : int32_t { nearest, stochastic };

// One parameter with all that belongs to it: contiguous arrays of numel elements on the engine's device.
struct ParamTensor {
    void* weight;
    void* grad;                         // dtype of the weight; written only if the step zeroes gradients
    void* master;                       // int16 (split), float (f32) or null (none)
    float* states[update::kMaxStates];  // as many as the rule has
    float* ema;                         // moving average of the weight, or null (none)
    float* step;                        // this tensor's count, advanced by one
    const double* hyper;                // the rule's columns
    int64_t numel;
    DType dtype;
    MasterFormat master_format;
    uint32_t key;  // of stochastic rounding
};

struct Step {
    const ParamTensor* tensors;
    int64_t count;
    int rule;  // index into rules()
    Rounding rounding;
    uint64_t seed;
    const float* grad_scale;       // null: 1
    const float* found_inf;        // null: 0
    const double* sum_of_squares;  // of the gradients as they are (scaled); null: unknown
    double max_grad_norm;          // used if sum_of_squares is known; infinity: no clipping
    float ema_weight;              // 1 - decay: the share of the new weight in the moving average
    bool zero_grad;                // gradients become 0 in the same pass, in a skipped step, too
};

// What a rule declares (math/update/all.h).
struct RuleInfo {
    std::string name;
    std::vector<std::string> hypers, states;
};

const std::vector<RuleInfo>& rules();
int rule_index(const std::string& name);  // throws a sentence that lists the rules

namespace cpu {

void step(const Step& step, const Parallel& parallel);

// master [n] <-> weight [n] of a 16-bit dtype and remainder [n]
void split(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t n, const Parallel& parallel);
void join(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t n,
          const Parallel& parallel);

// Any of the three dtypes to any other; stochastic rounding draws as tensor `key` at `step` does.
struct Cast {
    DType from, to;
    Rounding rounding;
    uint64_t seed;
    uint32_t step, key;
};
void cast(const Cast& cast, const void* source, void* target, int64_t n, const Parallel& parallel);

}  // namespace cpu

namespace cuda {

// The tensors of a list that share dtype and master: what one launch updates.
struct Set {
    DType dtype;
    MasterFormat master_format;
    int64_t first_row;   // in the plan's rows, which are sorted by set
    ChunkTable chunks;   // sizes only
    int64_t table_word;  // where its ChunkTable begins in the plan's words
};

// A list as the kernels read it: made once, uploaded once (collective/upload.h), good until a tensor's memory, numel or
// group changes. Gradients are not in it, because they move from step to step.
struct Plan {
    std::vector<int64_t> words;
    std::vector<Set> sets;
    int64_t count;
    int rule;
    Rounding rounding;
    int64_t workspace_bytes;
};

// hyper_rows: the row of each tensor in the table of hyper-parameters. Pointers of tensors[i].hyper, .grad and .step
// are not looked at.
Plan make_plan(const ParamTensor* tensors, const int64_t* hyper_rows, int64_t count, int rule, Rounding rounding);

// Where a step's kernels find what they read, all on the device.
struct Memory {
    const int64_t* words;      // of the plan
    const int64_t* gradients;  // addresses, in the list's order
    const double* hyper;       // [groups, columns of the rule]
    float* steps;              // [count], in the list's order
    void* workspace;           // 16-byte aligned
};

// Whether this binary has kernels for the current device.
CudaStatus supported();

// One step on the current device, same bits as cpu::step: nothing waits for the host, everything can be captured in a
// CUDA graph. Of `step` the list and the rule are the plan's; its scalars are device pointers.
CudaStatus step(const Plan& plan, const Memory& memory, const Step& step, void* stream);

// As cpu::split, cpu::join and cpu::cast.
CudaStatus split(const float* master, DType dtype, void* weight, int16_t* remainder, int64_t n, void* stream);
CudaStatus join(DType dtype, const void* weight, const int16_t* remainder, float* master, int64_t n, void* stream);
CudaStatus cast(const cpu::Cast& cast, const void* source, void* target, int64_t n, void* stream);

}  // namespace cuda
}  // namespace halfops::optim
