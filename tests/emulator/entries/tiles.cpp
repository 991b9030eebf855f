// kernels/tiles.cuh: the copy engine, its barriers, clusters.
#include "kernels/tiles.cuh"

#include <string_view>

#include "collective/launch.cuh"
#include "collective/tensor_map.cuh"
#include "driver/entry.h"
#include "kernels/tile_mistakes.cuh"

using namespace emulator;
using halfops::Grid;
using halfops::ptx::TensorMap;

namespace {

// `how`: extent, pitch, box, dtype, bytes of the swizzle.
cudaError_t describe(const Arguments& arguments, TensorMap* map) {
    const Array tensor = arguments["tensor"];
    const auto* how = arguments["how"].as<const int64_t>();
    const auto box = [&](int i) { return static_cast<int>(how[5 + i]); };
    const halfops::TensorBox described{tensor.data,
                                       static_cast<halfops::DType>(how[8]),
                                       {how[0], how[1], how[2]},
                                       {how[3], how[4]},
                                       {box(0), box(1), box(2)},
                                       how[9] == 0    ? halfops::Swizzle::none
                                       : how[9] == 64 ? halfops::Swizzle::bytes_64
                                                      : halfops::Swizzle::bytes_128};
    return halfops::make_tensor_map(described, map);
}

TensorMap map_of(const Arguments& arguments) {
    TensorMap map;
    if (describe(arguments, &map) != cudaSuccess) refuse_call("a tensor that cannot be described", "how");
    return map;
}

const Entry tensor_map("tensor_map", [](const Arguments& arguments) {
    TensorMap map;
    *arguments["status"].as<int32_t>() = static_cast<int32_t>(describe(arguments, &map));
});

const Entry load_tile("load_tile", [](const Arguments& arguments) {
    const Array out = arguments["out"];
    halfops::launch<kernels::load_tile_kernel>(
        Grid{1, 64, static_cast<unsigned>(out.bytes)}, nullptr, map_of(arguments), arguments["at"].as<const int>(),
        static_cast<int>(out.count<uint32_t>()), arguments.value<int32_t>("late") != 0, out.as<uint32_t>());
});

const Entry store_tile("store_tile", [](const Arguments& arguments) {
    const Array in = arguments["in"];
    const int times = arguments.value<int32_t>("times");
    const int words = static_cast<int>(in.count<uint32_t>()) / times;
    halfops::launch<kernels::store_tile_kernel>(Grid{1, 64, static_cast<unsigned>(kernels::place_of_tile(words)) * 8},
                                                nullptr, map_of(arguments), arguments["at"].as<const int>(), words,
                                                times, arguments.value<int32_t>("adds") != 0, in.as<const uint32_t>());
});

const Entry phases("phases", [](const Arguments& arguments) {
    halfops::launch<kernels::phases_kernel>(Grid{1, 96}, nullptr, arguments.value<int32_t>("phases"),
                                            arguments["out"].as<int>());
});

// What a device refuses comes back as a status.
const Entry everywhere("everywhere", [](const Arguments& arguments) {
    const unsigned cluster = arguments.value<uint32_t>("cluster");
    const auto blocks = static_cast<unsigned>(arguments["in"].count<float>()) / 64;
    *arguments["status"].as<int32_t>() = static_cast<int32_t>(
        halfops::launch<kernels::everywhere_kernel>(Grid{blocks, 64, 0, cluster}, nullptr, cluster,
                                                    arguments["in"].as<const float>(), arguments["out"].as<float>()));
});

const Entry ring("ring", [](const Arguments& arguments) {
    using kernels::Ring;
    const unsigned cluster = arguments.value<uint32_t>("cluster");
    const auto blocks = static_cast<unsigned>(arguments["out"].count<float>()) / 64;
    const unsigned bytes = Ring::kStages * cluster * Ring::kSliceBytes;
    halfops::launch<kernels::ring_kernel>(Grid{blocks, Ring::kThreads, bytes, cluster}, nullptr, map_of(arguments),
                                          static_cast<int>(cluster), arguments.value<int32_t>("tiles"),
                                          arguments["out"].as<float>());
});

const Entry roles("roles", [](const Arguments& arguments) {
    halfops::launch<kernels::roles_kernel>(Grid{1, 384}, nullptr, arguments["out"].as<int>());
});

// `shape`: threads, and blocks of the one cluster.
const Entry tile_mistake("tile_mistake", [](const Arguments& arguments) {
    const Array name = arguments["name"];
    const auto* shape = arguments["shape"].as<const uint32_t>();
    const kernels::Tiles tiles{map_of(arguments), arguments["tensor"].as<float>()};
    for (const kernels::TileMistake& candidate : kernels::kTileMistakes) {
        if (std::string_view(name.as<const char>(), static_cast<size_t>(name.bytes)) != candidate.name) continue;
        halfops::launch<kernels::tile_mistake_kernel>(Grid{shape[1], shape[0], 2 * kernels::kTileBytes, shape[1]},
                                                      nullptr, candidate.device_function, tiles);
        return;
    }
    refuse_call("no such mistake", "tile_mistake");
});

}  // namespace
