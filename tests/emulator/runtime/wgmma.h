// wgmma: the products of a warp that are under way, in which group, and when they read their operands.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "emulator/location.h"
#include "emulator/matrix.h"
#include "runtime/event.h"
#include "runtime/proxy.h"

namespace emulator {

struct Block;
struct Thread;

// What all warps of a warpgroup have to say alike.
struct ProductCall {
    Half format;
    int columns;
    uint64_t a, b;  // descriptors; a is 0 if it comes from registers
    int a_turned, b_turned;
    bool accumulate, a_in_registers;
    Location where;

    bool is_like(const ProductCall& other) const;
};

// A warp's sixteen rows of one product. Each warp's are its own; the tensor cores take the products of a warp in order.
struct Product : Event {
    Product(Thread& first, const ProductCall& call) : first(first), call(call) {}
    void act() override;

    Thread& first;  // lane 0
    ProductCall call;
    const void* instruction = nullptr;
    std::array<float*, 32> d{};
    std::array<std::array<uint32_t, 4>, 32> a{};  // of registers
    std::vector<std::array<float, 32>> values;    // accumulators, before and then after
    Product* before = nullptr;                    // the one whose accumulators these are, if under way
};

struct ProductGroup {
    std::list<Product> products;
};

struct ProductsOfWarp {
    std::list<ProductGroup> groups;  // oldest first
    std::list<Product> in_no_group;
    std::vector<ProductCall> calls;
    bool fenced = false;  // since accumulators could last be touched
    SyncPoint read;       // what a wait puts in order
};

// Nobody waits for them any more.
void refuse_exit_during_products(const Thread& thread);

}  // namespace emulator
