#include <algorithm>

#include "binding/linear_ops.h"

namespace halfops::binding {
namespace {

std::string text(const std::vector<int64_t>& shape) {
    std::string joined = "[";
    for (size_t d = 0; d < shape.size(); ++d) joined += (d == 0 ? "" : ", ") + std::to_string(shape[d]);
    return joined + "]";
}

// Do dimensions [0, dim - 1) walk through memory as one?
bool collapses(const Tensor& t) {
    for (int64_t d = t.dim() - 3; d >= 0; --d) {
        if (t.size(d) == 1) continue;
        int64_t next = d + 1;
        while (next < t.dim() - 1 && t.size(next) == 1) ++next;
        if (next < t.dim() - 1 && t.stride(d) != t.stride(next) * t.size(next)) return false;
    }
    return true;
}

// The stride of the innermost leading dimension that is not trivial.
int64_t row_stride(const Tensor& t) {
    for (int64_t d = t.dim() - 2; d >= 0; --d) {
        if (t.size(d) != 1) return t.stride(d);
    }
    return t.dim() > 0 ? t.size(t.dim() - 1) : 1;
}

// One past the last byte that a tensor can touch.
const char* end_of(const Tensor& t) {
    int64_t last = 0;
    for (int64_t d = 0; d < t.dim(); ++d) last += (t.size(d) - 1) * t.stride(d);
    return static_cast<const char*>(t.const_data_ptr()) + (last + 1) * t.element_size();
}

}  // namespace

Activation activation_of(const std::string& name) {
    if (name == "none") return Activation::none;
    if (name == "relu") return Activation::relu;
    if (name == "gelu") return Activation::gelu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "silu") return Activation::silu;
    fail("activation: got '", name, "', wanted one of 'none', 'relu', 'gelu', 'gelu_tanh', 'silu'");
}

std::vector<int64_t> shape_of(const Tensor& tensor) {
    std::vector<int64_t> shape;
    for (int64_t d = 0; d < tensor.dim(); ++d) shape.push_back(tensor.size(d));
    return shape;
}

std::vector<int64_t> with_last(const Tensor& tensor, int64_t size) {
    std::vector<int64_t> shape = shape_of(tensor);
    shape.back() = size;
    return shape;
}

Rows rows_of(const Tensor& tensor, const std::string& name) {
    const DType dtype = dtype_of(tensor, name);
    check_memory(tensor, name);
    const Tensor t = collapses(tensor) ? tensor : torch::stable::contiguous(tensor);
    const int64_t last = t.dim() - 1, cols = t.size(last);
    int64_t rows = 1;
    for (int64_t d = 0; d < last; ++d) rows *= t.size(d);
    return {t, {t.const_data_ptr(), dtype, rows, cols, row_stride(t), cols == 1 ? 1 : t.stride(last)}};
}

linear::Matrix matrix_of(const Tensor& t, const std::string& name) {
    check_memory(t, name);
    const int64_t d = t.dim() - 2, rows = t.size(d), cols = t.size(d + 1);
    const int64_t row_stride = rows == 1 ? cols : t.stride(d), col_stride = cols == 1 ? 1 : t.stride(d + 1);
    return {t.const_data_ptr(), dtype_of(t, name), rows, cols, row_stride, col_stride};
}

Tensor new_empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like) {
    return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

linear::Matrix transposed(const linear::Matrix& m) {
    return {m.data, m.dtype, m.cols, m.rows, m.col_stride, m.row_stride};
}

void check_same_dtype(const Tensor& tensor, const Tensor& like, const std::string& name, const std::string& like_name) {
    check(tensor.scalar_type() == like.scalar_type(), name, ": got ", dtype_name(tensor.scalar_type()), ", wanted ",
          dtype_name(like.scalar_type()), " as ", like_name, " has; convert one of them with .to(dtype)");
}

void check_shape(const Tensor& tensor, const std::vector<int64_t>& wanted, const std::string& name,
                 const std::string& why) {
    check(shape_of(tensor) == wanted, name, ": got shape ", shape_text(tensor), ", wanted ", text(wanted), " (", why,
          ")");
}

void check_disjoint(const Tensor& target, const Tensor& source, const std::string& name,
                    const std::string& source_name) {
    if (target.numel() == 0 || source.numel() == 0) return;
    const bool apart = end_of(target) <= static_cast<const char*>(source.const_data_ptr()) ||
                       end_of(source) <= static_cast<const char*>(target.const_data_ptr());
    check(apart, name, ": shares memory with ", source_name, ", which is still read while ", name,
          " is written; pass a .clone() of one of them");
}

void check_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                  const std::string& weight_name, const std::string& bias_name) {
    dtype_of(input, "input");
    check(input.dim() >= 1, "input: got a 0-d tensor, wanted [*, in_features]");
    check(weight.dim() == 2, weight_name, ": got shape ", shape_text(weight), ", wanted [out_features, in_features]");
    check_same_device(weight, input, weight_name, "input");
    check_same_dtype(weight, input, weight_name, "input");
    const int64_t inner = input.size(input.dim() - 1);
    check(weight.size(1) == inner, weight_name, ": got shape ", shape_text(weight), ", wanted [out_features, ", inner,
          "] for input of shape ", shape_text(input),
          weight.size(0) == inner ? "; did you pass w.T? The layout is that of torch.nn.Linear" : "");
    if (bias.has_value()) {
        check_same_device(*bias, input, bias_name, "input");
        check_same_dtype(*bias, input, bias_name, "input");
        check_shape(*bias, {weight.size(0)}, bias_name, "one number for each row of " + weight_name);
        check_memory(*bias, bias_name);
    }
}

void check_dgrad(const Tensor& grad_output, const Tensor& weight, const std::string& grad_name,
                 const std::string& weight_name) {
    dtype_of(grad_output, grad_name);
    check(grad_output.dim() >= 1, grad_name, ": got a 0-d tensor, wanted [*, out_features]");
    check(weight.dim() == 2, weight_name, ": got shape ", shape_text(weight), ", wanted [out_features, in_features]");
    check_same_device(weight, grad_output, weight_name, grad_name);
    check_same_dtype(weight, grad_output, weight_name, grad_name);
    const int64_t outer = grad_output.size(grad_output.dim() - 1);
    check(weight.size(0) == outer, weight_name, ": got shape ", shape_text(weight), ", wanted [", outer,
          ", in_features] for ", grad_name, " of shape ", shape_text(grad_output),
          weight.size(1) == outer ? "; did you pass w.T? The layout is that of torch.nn.Linear" : "");
}

void check_like_grad_input(const Tensor& tensor, const std::string& name, const Tensor& grad_output,
                           const std::vector<int64_t>& shape) {
    check_same_device(tensor, grad_output, name, "grad_output");
    check_same_dtype(tensor, grad_output, name, "grad_output");
    check_shape(tensor, shape, name, "the shape of the input's gradient");
}

void check_wgrad(const Tensor& grad_output, const Tensor& input) {
    dtype_of(grad_output, "grad_output");
    check(grad_output.dim() >= 1, "grad_output: got a 0-d tensor, wanted [*, out_features]");
    check(input.dim() >= 1, "input: got a 0-d tensor, wanted [*, in_features]");
    check_same_device(input, grad_output, "input", "grad_output");
    check_same_dtype(input, grad_output, "input", "grad_output");
    check_shape(input, with_last(grad_output, input.size(input.dim() - 1)), "input",
                "the leading dimensions of grad_output, " + shape_text(grad_output));
}

void check_elementwise(const Tensor& tensor, const Tensor& like, const std::string& name,
                       const std::string& like_name) {
    check_same_device(tensor, like, name, like_name);
    check_same_dtype(tensor, like, name, like_name);
    check_shape(tensor, shape_of(like), name, "the shape of " + like_name);
}

Batches check_matmul(const Tensor& input, const Tensor& other, const std::optional<Tensor>& c, ScalarType out_dtype) {
    dtype_of(input, "input");
    check(input.dim() >= 2, "input: got shape ", shape_text(input), ", wanted at least 2-D; a vector is x[None, :]");
    check(other.dim() >= 2, "other: got shape ", shape_text(other), ", wanted at least 2-D; a vector is x[:, None]");
    check_same_device(other, input, "other", "input");
    check_same_dtype(other, input, "other", "input");
    check(out_dtype == ScalarType::Half || out_dtype == ScalarType::BFloat16 || out_dtype == ScalarType::Float,
          "out_dtype: got ", dtype_name(out_dtype), ", wanted torch.float16, torch.bfloat16 or torch.float32");
    const int64_t a_batch = input.dim() - 2, b_batch = other.dim() - 2;
    const int64_t inner = input.size(a_batch + 1);
    check(other.size(b_batch) == inner, "other: got shape ", shape_text(other), ", wanted [.., ", inner,
          ", N] for input of shape ", shape_text(input),
          other.size(b_batch + 1) == inner ? "; did you forget other.mT?" : "");

    Batches batches;
    const int64_t dims = a_batch > b_batch ? a_batch : b_batch;
    std::vector<int64_t> a_stride, b_stride;
    for (int64_t d = 0; d < dims; ++d) {
        const int64_t da = d - (dims - a_batch), db = d - (dims - b_batch);
        const int64_t a_size = da < 0 ? 1 : input.size(da), b_size = db < 0 ? 1 : other.size(db);
        check(a_size == b_size || a_size == 1 || b_size == 1, "other: got shape ", shape_text(other),
              ", whose batch dimensions do not broadcast with those of input, ", shape_text(input));
        batches.shape.push_back(a_size == 1 ? b_size : a_size);
        a_stride.push_back(a_size == 1 ? 0 : input.stride(da));
        b_stride.push_back(b_size == 1 ? 0 : other.stride(db));
    }
    if (c.has_value()) {
        check_same_device(*c, input, "c", "input");
        check(c->scalar_type() == out_dtype || c->scalar_type() == ScalarType::Float, "c: got ",
              dtype_name(c->scalar_type()), ", wanted ", dtype_name(out_dtype), " as the result has, or torch.float32");
        std::vector<int64_t> wanted = batches.shape;
        wanted.push_back(input.size(a_batch));
        wanted.push_back(other.size(b_batch + 1));
        check_shape(*c, wanted, "c", "the shape of the result");
    }
    batches.input = {0};
    batches.other = {0};
    for (int64_t d = 0; d < dims; ++d) {
        const auto size = batches.shape[static_cast<size_t>(d)];
        std::vector<int64_t> a_next, b_next;
        for (size_t i = 0; i < batches.input.size(); ++i) {
            for (int64_t j = 0; j < size; ++j) {
                a_next.push_back(batches.input[i] + j * a_stride[static_cast<size_t>(d)]);
                b_next.push_back(batches.other[i] + j * b_stride[static_cast<size_t>(d)]);
            }
        }
        batches.input = a_next;
        batches.other = b_next;
    }
    return batches;
}

Policies& policies() {
    static Policies none;
    return none;
}

namespace {

std::vector<std::string> linear_policies() {
    return policies().names == nullptr ? std::vector<std::string>{} : policies().names();
}

void linear_force_policy(std::string name, int64_t blocks) {
    const std::vector<std::string> known = linear_policies();
    check(name.empty() || std::find(known.begin(), known.end(), name) != known.end(), "linear_force_policy: got '",
          name, "', wanted '' or one of this build's policies (",
          known.empty() ? "it has none: it is a CPU build" : "torch.ops.halfops.linear_policies() lists them", ")");
    check(blocks >= 0, "linear_force_policy: blocks: got ", blocks, ", wanted a count, or 0 for the policy's own");
    if (policies().force != nullptr) policies().force(name, blocks);
}

// An engine that is not made: where an op asks for one, it has found nothing to refuse.
struct NothingToRefuse {};
struct NoEngine {
    NoEngine(const char*, const Tensor&) { throw NothingToRefuse{}; }
    void gemm(const linear::Problem&) const {}
    void column_sums(const linear::Matrix&, void*) const {}
};

// The checks of an op, and nothing else of it.
template <auto kOp>
struct Check;
template <class Result, class... Arguments, Result (*kOp)(Arguments...)>
struct Check<kOp> {
    static void run(Arguments... arguments) {
        try {
            kOp(arguments...);
        } catch (const NothingToRefuse&) {
        }
    }
};

std::string linear_last_plan() { return policies().last_plan == nullptr ? "" : policies().last_plan(); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(halfops, CompositeExplicitAutograd, m) {
    m.impl("linear_policies", TORCH_BOX(&linear_policies));
    m.impl("linear_force_policy", TORCH_BOX(&linear_force_policy));
    m.impl("linear_last_plan", TORCH_BOX(&linear_last_plan));

    using Ops = LinearOps<NoEngine>;
    m.impl("check_linear", TORCH_BOX(&Check<&Ops::linear>::run));
    m.impl("check_linear_dgrad", TORCH_BOX(&Check<&Ops::linear_dgrad>::run));
    m.impl("check_linear_wgrad", TORCH_BOX(&Check<&Ops::linear_wgrad>::run));
    m.impl("check_linear_wgrad_", TORCH_BOX(&Check<&Ops::linear_wgrad_>::run));
    m.impl("check_gated_linear", TORCH_BOX(&Check<&Ops::gated_linear>::run));
    m.impl("check_gated_linear_dgrad", TORCH_BOX(&Check<&Ops::gated_linear_dgrad>::run));
    m.impl("check_gated_dgrad", TORCH_BOX(&Check<&Ops::gated_dgrad>::run));
    m.impl("check_matmul", TORCH_BOX(&Check<&Ops::matmul>::run));
}

}  // namespace halfops::binding
