// kernels/warpgroups.cuh: a product of a warpgroup, right and wrong.
#include "kernels/warpgroups.cuh"

#include "collective/launch.cuh"
#include "driver/entry.h"

const emulator::Entry slip("slip", [](const emulator::Arguments& arguments) {
    const auto which = static_cast<kernels::Slip>(arguments.value<int32_t>("slip"));
    static_cast<void>(halfops::launch<kernels::slip_kernel>(halfops::Grid{1, 128, 9216}, nullptr,
                                                            arguments["in"].as<const uint32_t>(), which,
                                                            arguments["out"].as<float>()));
});
