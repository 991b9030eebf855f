// A list of tensors as this room takes it, and as its kernels read it: words on the device.
#pragma once

#include <cstdint>
#include <vector>

#include "core/chunk_table.h"
#include "core/dtype.h"

namespace halfops::scale {

// One tensor as flat memory. The dtype is its own, so that a list may mix them.
struct Span {
    const void* data;
    int64_t numel;
    DType dtype;
};

// words: the address of each tensor, its numel, its dtype, then a ChunkTable. The addresses come first so that they
// can be replaced alone where only they have changed.
struct SpanTable {
    const int64_t* words;
    ChunkTable chunks;  // within words

    HALFOPS_HD int64_t address(int64_t t) const { return words[t]; }
    HALFOPS_HD int64_t numel(int64_t t) const { return words[chunks.count + t]; }
    HALFOPS_HD DType dtype(int64_t t) const { return static_cast<DType>(words[2 * chunks.count + t]); }
};

// The words of a table; chunk counts and sizes in *sizes.
inline std::vector<int64_t> span_words(const Span* spans, int64_t count, ChunkTable* sizes) {
    std::vector<int64_t> words(static_cast<size_t>(3 * count));
    for (int64_t t = 0; t < count; ++t) {
        words[t] = static_cast<int64_t>(reinterpret_cast<uintptr_t>(spans[t].data));
        words[count + t] = spans[t].numel;
        words[2 * count + t] = static_cast<int64_t>(spans[t].dtype);
    }
    *sizes = append_chunk_table(words, count, [=](int64_t t) { return spans[t].numel; });
    return words;
}

inline SpanTable span_table_at(const int64_t* words, ChunkTable sizes) {
    return {words, chunk_table_at(words + 3 * sizes.count, sizes)};
}

}  // namespace halfops::scale
