// The front door with elements so far apart that 32 bits count neither them nor their bytes.
#pragma once

#include <sys/mman.h>

#include "entries/linear_problem.h"

namespace linear_entry {

// Address space for `elements` halves, of which the operating system gives what is written to.
class FarMemory {
  public:
    explicit FarMemory(int64_t elements) : bytes_(static_cast<size_t>(elements) * sizeof(uint16_t)) {
        memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory_ == MAP_FAILED) refuse_call("no address space of this size", "far");
    }
    FarMemory(const FarMemory&) = delete;
    FarMemory& operator=(const FarMemory&) = delete;
    ~FarMemory() { munmap(memory_, bytes_); }
    uint16_t* get() const { return static_cast<uint16_t*>(memory_); }

  private:
    size_t bytes_;
    void* memory_;
};

// `count` matrices of an array, one behind the other there, which lie `step` elements apart here.
class FarMatrix {
  public:
    FarMatrix(const Arguments& arguments, const std::string& name, int64_t count, int64_t rows, int64_t cols)
        : compact_(arguments[name.c_str()].as<uint16_t>()), rows_(rows), cols_(cols) {
        const auto* layout = arguments[(name + "_layout").c_str()].as<int64_t>();  // both strides, the step, the order
        row_stride_ = layout[0];
        col_stride_ = layout[1];
        step_ = layout[2];
        const bool backwards = layout[3] != 0;  // the last matrix in front: no equal distances for a kernel
        // Sixteen more, as there are behind a tensor in an allocator's block: a load may straddle its end.
        const int64_t last = (count - 1) * step_ + (rows - 1) * row_stride_ + (cols - 1) * col_stride_;
        memory_.emplace_back(last + 16);
        for (int64_t i = 0; i < count; ++i) offsets_.push_back((backwards ? count - 1 - i : i) * step_);
        for_each([](uint16_t& far, uint16_t& compact) { far = compact; });
    }
    linear::Matrix matrix() const {
        return {memory_.front().get(), DType::f16, rows_, cols_, row_stride_, col_stride_};
    }
    const int64_t* offsets() const { return offsets_.data(); }
    void give_back() {
        for_each([](uint16_t& far, uint16_t& compact) { compact = far; });
    }

  private:
    template <class F>
    void for_each(const F& f) {
        uint16_t* compact = compact_;
        for (const int64_t offset : offsets_) {
            for (int64_t row = 0; row < rows_; ++row) {
                for (int64_t col = 0; col < cols_; ++col) {
                    f(memory_.front().get()[offset + row * row_stride_ + col * col_stride_], *compact++);
                }
            }
        }
    }

    uint16_t* compact_;
    int64_t rows_, cols_, row_stride_, col_stride_, step_;
    std::list<FarMemory> memory_;
    std::vector<int64_t> offsets_;
};

// out = a b + c, for each of a batch.
inline void far_gemm(const Arguments& arguments) {
    const auto* sizes = arguments["sizes"].as<int64_t>();  // m, n, k, batch
    const int64_t m = sizes[0], n = sizes[1], k = sizes[2], batch = sizes[3];
    FarMatrix a(arguments, "a", batch, m, k), b(arguments, "b", batch, k, n);
    FarMatrix c(arguments, "c", 1, batch * m, n), out(arguments, "out", 1, batch * m, n);
    linear::Problem p{};
    p.a = a.matrix();
    p.b = b.matrix();
    p.batch = batch;
    p.a_offsets = a.offsets();
    p.b_offsets = b.offsets();
    const linear::Matrix addend = c.matrix(), result = out.matrix();
    p.epilogue.c = &addend;
    p.epilogue.beta = 1.0f;
    p.out = const_cast<void*>(result.data);
    p.out_dtype = result.dtype;
    p.out_stride = result.row_stride;
    run(p, arguments);
    out.give_back();
}

}  // namespace linear_entry
