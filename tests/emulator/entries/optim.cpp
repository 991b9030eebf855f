// The optim room's launchers.
#include "optim/optim.h"

#include "driver/entry.h"
#include "entries/memory.h"

using namespace emulator;
using namespace halfops;

namespace {

// Rows as the binding makes them. Lists have one array a tensor; an empty one stands for none.
std::vector<optim::ParamTensor> tensors_of(const Arguments& arguments) {
    const auto weights = arguments.list("weight"), grads = arguments.list("grad"), masters = arguments.list("master"),
               states = arguments.list("state"), emas = arguments.list("ema");
    const auto* dtypes = arguments["dtype"].as<int32_t>();
    const auto* keys = arguments["key"].as<uint32_t>();
    std::vector<optim::ParamTensor> tensors(weights.size());
    for (size_t t = 0; t < weights.size(); ++t) {
        optim::ParamTensor& tensor = tensors[t];
        tensor.dtype = static_cast<DType>(dtypes[t]);
        tensor.numel = weights[t].bytes / bytes_of(tensor.dtype);
        tensor.weight = weights[t].data;
        tensor.grad = grads[t].data;
        tensor.key = keys[t];
        tensor.master_format = optim::MasterFormat::none;
        if (masters[t].bytes > 0) {
            const bool split = masters[t].bytes == 2 * tensor.numel;
            tensor.master_format = split ? optim::MasterFormat::split : optim::MasterFormat::f32;
            tensor.master = masters[t].data;
        }
        for (size_t k = 0; k * weights.size() < states.size(); ++k) {
            tensor.states[k] = states[k * weights.size() + t].as<float>();
        }
        tensor.ema = emas.empty() || emas[t].bytes == 0 ? nullptr : emas[t].as<float>();
    }
    return tensors;
}

template <class T>
const T* optional(const Arguments& arguments, const char* name) {
    const auto found = arguments.list(name);
    return found.empty() ? nullptr : found.front().as<T>();
}

const Entry step("step", [](const Arguments& arguments) {
    const auto tensors = tensors_of(arguments);
    const auto count = static_cast<int64_t>(tensors.size());
    optim::Step step{};
    step.tensors = tensors.data();
    step.count = count;
    step.rule = arguments.value<int32_t>("rule");
    step.rounding = static_cast<optim::Rounding>(arguments.value<int32_t>("rounding"));
    step.seed = arguments.value<uint64_t>("seed");
    step.grad_scale = optional<float>(arguments, "grad_scale");
    step.found_inf = optional<float>(arguments, "found_inf");
    step.sum_of_squares = optional<double>(arguments, "sum_of_squares");
    step.max_grad_norm = arguments.value<double>("max_grad_norm");
    step.ema_weight = arguments.value<float>("ema_weight");
    step.zero_grad = arguments.value<int8_t>("zero_grad") != 0;

    std::vector<int64_t> addresses;
    for (const auto& tensor : tensors) addresses.push_back(address_of(tensor.grad));
    const auto plan =
        optim::cuda::make_plan(tensors.data(), arguments["hyper_row"].as<int64_t>(), count, step.rule, step.rounding);
    const DeviceMemory words(plan.words), gradients(addresses), workspace(plan.workspace_bytes);
    const optim::cuda::Memory memory = {words.words(), gradients.words(), arguments["hyper"].as<double>(),
                                        arguments["steps"].as<float>(), workspace.get()};
    check(optim::cuda::step(plan, memory, step, nullptr));
});

const Entry split("split", [](const Arguments& arguments) {
    const Array master = arguments["master"];
    check(optim::cuda::split(master.as<float>(), static_cast<DType>(arguments.value<int32_t>("dtype")),
                             arguments["weight"].data, arguments["remainder"].as<int16_t>(), master.count<float>(),
                             nullptr));
});

const Entry join("join", [](const Arguments& arguments) {
    const Array master = arguments["master"];
    check(optim::cuda::join(static_cast<DType>(arguments.value<int32_t>("dtype")), arguments["weight"].data,
                            arguments["remainder"].as<int16_t>(), master.as<float>(), master.count<float>(), nullptr));
});

const Entry cast("cast", [](const Arguments& arguments) {
    const optim::cpu::Cast cast = {static_cast<DType>(arguments.value<int32_t>("from")),
                                   static_cast<DType>(arguments.value<int32_t>("to")),
                                   static_cast<optim::Rounding>(arguments.value<int32_t>("rounding")),
                                   arguments.value<uint64_t>("seed"),
                                   arguments.value<uint32_t>("step"),
                                   arguments.value<uint32_t>("key")};
    const Array source = arguments["source"];
    check(optim::cuda::cast(cast, source.data, arguments["target"].data, source.bytes / bytes_of(cast.from), nullptr));
});

}  // namespace
