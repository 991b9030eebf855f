#include "collective/tensor_map.cuh"

#if defined(HALFOPS_EMULATOR)
#include "emulator/tma.h"
#else
#include <cudaTypedefs.h>
#endif

namespace halfops {

#if defined(HALFOPS_EMULATOR)

cudaError_t make_tensor_map(const TensorBox& tensor, ptx::TensorMap* map) {
    const auto format = tensor.dtype == DType::f32   ? emulator::TensorFormat::f32
                        : tensor.dtype == DType::f16 ? emulator::TensorFormat::f16
                                                     : emulator::TensorFormat::bf16;
    return emulator::make_tensor_map(tensor.data, format, tensor.extent, tensor.pitch, tensor.box,
                                     tensor.swizzle == Swizzle::bytes_128  ? 128
                                     : tensor.swizzle == Swizzle::bytes_64 ? 64
                                                                           : 0,
                                     map);
}

#else

namespace {

// Asked of the runtime, so that nothing has to be linked to the driver.
cudaError_t driver_function(PFN_cuTensorMapEncodeTiled_v12000* function) {
    static void* known = nullptr;
    static const cudaError_t status = [] {
        cudaDriverEntryPointQueryResult found{};
        const cudaError_t asked =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &known, 12000, cudaEnableDefault, &found);
        if (asked != cudaSuccess) return asked;
        return found == cudaDriverEntryPointSuccess ? cudaSuccess : cudaErrorNotSupported;
    }();
    *function = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(known);
    return status;
}

}  // namespace

cudaError_t make_tensor_map(const TensorBox& tensor, ptx::TensorMap* map) {
    static_assert(sizeof(ptx::TensorMap) == sizeof(CUtensorMap), "the driver's description of a tensor");
    PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
    if (const cudaError_t status = driver_function(&encode); status != cudaSuccess) return status;
    const CUtensorMapDataType dtype = tensor.dtype == DType::f32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                      : tensor.dtype == DType::f16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                   : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    cuuint64_t extent[3], pitch[2];
    cuuint32_t box[3], every[3];
    for (int i = 0; i < 3; ++i) {
        extent[i] = static_cast<cuuint64_t>(tensor.extent[i]);
        box[i] = static_cast<cuuint32_t>(tensor.box[i]);
        every[i] = 1;
        if (i < 2) pitch[i] = static_cast<cuuint64_t>(tensor.pitch[i]);
    }
    const CUresult made = encode(reinterpret_cast<CUtensorMap*>(map), dtype, 3, const_cast<void*>(tensor.data), extent,
                                 pitch, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 tensor.swizzle == Swizzle::bytes_128  ? CU_TENSOR_MAP_SWIZZLE_128B
                                 : tensor.swizzle == Swizzle::bytes_64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                       : CU_TENSOR_MAP_SWIZZLE_NONE,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return made == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

#endif

}  // namespace halfops
