// The linear room's front door, called with arrays.
#pragma once

#include <list>
#include <optional>

#include "driver/entry.h"
#include "entries/memory.h"
#include "linear/linear.h"

namespace linear_entry {

using namespace emulator;
using namespace halfops;

// An array `name`, if it is there, as a matrix: `name`_layout is offset, row stride and column stride in elements.
struct Given {
    const Arguments& arguments;
    std::list<linear::Matrix> matrices;

    void* data(const std::string& name, int64_t offset_bytes = 0) const {
        const std::vector<Array> found = arguments.list(name.c_str());
        return found.empty() ? nullptr : static_cast<char*>(found.front().data) + offset_bytes;
    }
    DType dtype(const std::string& name) const {
        return static_cast<DType>(arguments.value<int32_t>((name + "_dtype").c_str()));
    }
    const linear::Matrix* matrix(const std::string& name, int64_t rows, int64_t cols) {
        if (data(name) == nullptr) return nullptr;
        const auto* layout = arguments[(name + "_layout").c_str()].as<int64_t>();
        const DType type = dtype(name);
        matrices.push_back({data(name, layout[0] * bytes_of(type)), type, rows, cols, layout[1], layout[2]});
        return &matrices.back();
    }
};

// As the row and blocks that are `forced`; says in `plan` what it became.
inline void run(const linear::Problem& p, const Arguments& arguments) {
    const auto* forced = arguments["forced"].as<int64_t>();  // row, blocks
    linear::cuda::force_policy(forced[0] < 0 ? "" : linear::cuda::policies()[static_cast<size_t>(forced[0])],
                               forced[1]);
    std::optional<DeviceMemory> workspace;
    const linear::cuda::Lender lender{
        [](int64_t bytes, void* context) { return static_cast<decltype(workspace)*>(context)->emplace(bytes).get(); },
        &workspace};
    linear::cuda::Plan plan;
    check(linear::cuda::gemm(p, lender, nullptr, &plan));
    auto* chosen = arguments["plan"].as<int64_t>();
    chosen[0] = plan.policy;
    chosen[1] = plan.blocks;
}

inline void gemm(const Arguments& arguments) {
    Given given{arguments, {}};
    const auto* sizes = arguments["sizes"].as<int64_t>();  // m, n, k, batch
    const int64_t m = sizes[0], n = sizes[1], k = sizes[2], batch = sizes[3];
    linear::Problem p{};
    p.a = *given.matrix("a", m, k);
    p.b = *given.matrix("b", k, n);
    p.a2 = given.matrix("a2", m, k);
    p.b2 = given.matrix("b2", k, n);
    const linear::Matrix* out = given.matrix("out", batch * m, n);
    p.out = const_cast<void*>(out->data);
    p.out_dtype = out->dtype;
    p.out_stride = out->row_stride;
    p.batch = batch;
    p.a_offsets = static_cast<const int64_t*>(given.data("a_offsets"));
    p.b_offsets = static_cast<const int64_t*>(given.data("b_offsets"));

    linear::Epilogue& e = p.epilogue;
    const auto* factors = arguments["factors"].as<float>();  // alpha, beta
    e.alpha = factors[0];
    e.beta = factors[1];
    e.activation = static_cast<Activation>(arguments.value<int32_t>("activation"));
    e.bias = given.data("bias");
    e.bias2 = given.data("bias2");
    e.preact = given.data("preact");
    e.preact2 = given.data("preact2");
    e.grad_preact = given.matrix("grad_preact", m, n);
    e.grad_up = given.matrix("grad_up", m, n);
    e.c = given.matrix("c", batch * m, n);
    const linear::Matrix* out2 = given.matrix("out2", m, n);
    e.out2 = out2 == nullptr ? nullptr : const_cast<void*>(out2->data);
    e.column_sums = given.data("column_sums");
    e.column_sums2 = given.data("column_sums2");
    e.stats = static_cast<double*>(given.data("stats"));

    run(p, arguments);
}

}  // namespace linear_entry
