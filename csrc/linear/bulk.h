// What the kernels for sm_90a are told beside GemmArguments.
#pragma once

#include "linear/operand.h"
#include "ptx/tensor_map.h"

namespace halfops::linear {

// The kinds of epilogues that kernels have code of their own for, for sheets with `vectors` in the operands' dtype; of
// those that read a matrix, for tiles that are inside the output. `any` is the one that asks at run time.
enum class Kind : int {
    any,
    plain,           // accumulators times alpha, plus a bias perhaps
    activated,       // and an activation; its input may be kept
    gated,           // act(gate) * up; both may be kept
    gradient,        // of an activation
    gated_gradient,  // of a gated one, for both factors
    added,           // c times beta is added
    accumulated,     // the same in fp32
};

struct BulkArguments {
    ptx::TensorMap a[2], b[2];
    int a_batched, b_batched;  // 0 where all of a batch share the operand
    Kind kind;
    ptx::TensorMap out;  // of a plain one: boxes of 64 columns
    // Boxes of 32 columns of each of the epilogue's outputs (Output), where it leaves by the copy engine.
    ptx::TensorMap outputs[4];
    bool is_sent[4];
};

}  // namespace halfops::linear
