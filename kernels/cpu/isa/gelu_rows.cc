#include "kernels/cpu/isa/gelu_rows.h"

#include "kernels/cpu/isa/vec.h"

namespace sepia::kernels::cpu::SEPIA_ISA {
namespace {

// gelu(v) and gelu'(v), which share what they cost.
struct ValueAndSlope {
  Vec value, slope;
};

// 0.5 (1 + tanh(u)) = s = 1 / (1 + e^-2u) has no cancellation, so gelu(v) = v s(v) with
// 2u = 2 sqrt(2/pi) (v + 0.044715 v^3) and gelu'(v) = s + v s (1 - s) 2u'(v), 1 - s = s e^-2u.
struct TanhForm {
  static constexpr float kLinear = 1.59576912f;   // 2 sqrt(2/pi)
  static constexpr float kCubic = 0.0713548163f;  // kLinear * 0.044715
  static constexpr float kLimit = 80.0f;          // e^80 is finite; e^-80 v rounds to nothing

  static Vec ExpOfMinus2U(Vec v, Vec square) {
    const Vec minus_2u = -(v * Fma(square, Set(kCubic), Set(kLinear)));
    return Exp(Min(Set(kLimit), minus_2u));
  }
  static Vec Value(Vec v) { return v * (Set(1.0f) / (Set(1.0f) + ExpOfMinus2U(v, v * v))); }
  static ValueAndSlope Both(Vec v) {
    const Vec square = v * v;
    const Vec e = ExpOfMinus2U(v, square);
    const Vec s = Set(1.0f) / (Set(1.0f) + e);
    const Vec two_u_slope = Fma(square, Set(3.0f * kCubic), Set(kLinear));
    return {v * s, Fma(v * (s * (s * e)), two_u_slope, s)};
  }
};

// gelu(v) = v P(v), gelu'(v) = P(v) + v p(v) with the normal distribution P and its density p. With
// a = |v|: P(-a) = e^(-a^2/2) R(a), where R(a) = erfcx(a / sqrt 2) / 2 is a polynomial of degree 9
// in t = 1 / (1 + 0.26 a), interpolated at Chebyshev nodes of a in [0, 13.5]: relative error 9e-9.
struct ErfForm {
  static constexpr float kDensity = 0.398942280f;  // 1 / sqrt(2 pi)

  static Vec ScaledTail(Vec a) {
    constexpr float kCoefficients[] = {0.0336092966f, -0.168871863f,   0.28729331f,  -0.196148433f,
                                       0.196461011f,  0.0330483307f,   0.108887822f, 0.101833626f,
                                       0.103893442f,  -6.54057228e-06f};
    const Vec t = Set(1.0f) / Fma(a, Set(0.26f), Set(1.0f));
    Vec r = Set(kCoefficients[0]);
    for (int i = 1; i < 10; ++i) r = Fma(r, t, Set(kCoefficients[i]));
    return r;
  }
  static Vec Distribution(Vec v, Vec gauss) {
    const Vec tail = gauss * ScaledTail(Abs(v));
    return Select(v < Zero(), tail, Set(1.0f) - tail);
  }
  static Vec Gauss(Vec v) { return Exp(v * v * Set(-0.5f)); }
  static Vec Value(Vec v) { return v * Distribution(v, Gauss(v)); }
  static ValueAndSlope Both(Vec v) {
    const Vec gauss = Gauss(v);
    const Vec distribution = Distribution(v, gauss);
    return {v * distribution, Fma(v * Set(kDensity), gauss, distribution)};
  }
};

template <typename Form, typename T>
void Forward(const GeluRow& row) {
  const T* x = static_cast<const T*>(row.x);
  const T* bias = static_cast<const T*>(row.bias);
  T* y = static_cast<T*>(row.y);
  int64_t i = 0;
  for (; i + kLanes <= row.size; i += kLanes) {
    Store(y + i, Form::Value(Load(x + i) + Load(bias + i)));
  }
  const int64_t rest = row.size - i;
  if (rest > 0) StoreN(y + i, Form::Value(LoadN(x + i, rest) + LoadN(bias + i, rest)), rest);
}

template <typename Form, typename T, bool kWithValue>
void Backward(const GeluGradientRow& row) {
  const T* x = static_cast<const T*>(row.x);
  const T* bias = static_cast<const T*>(row.bias);
  const T* dy = static_cast<const T*>(row.dy);
  T* dx = static_cast<T*>(row.dx);
  T* y = static_cast<T*>(row.y);
  int64_t i = 0;
  for (; i + kLanes <= row.size; i += kLanes) {
    const ValueAndSlope gelu = Form::Both(Load(x + i) + Load(bias + i));
    const Vec gradient = Load(dy + i) * gelu.slope;
    Store(dx + i, gradient);
    Store(row.dbias + i, Load(row.dbias + i) + gradient);
    if constexpr (kWithValue) Store(y + i, gelu.value);
  }
  const int64_t rest = row.size - i;
  if (rest > 0) {
    const ValueAndSlope gelu = Form::Both(LoadN(x + i, rest) + LoadN(bias + i, rest));
    const Vec gradient = LoadN(dy + i, rest) * gelu.slope;
    StoreN(dx + i, gradient, rest);
    StoreN(row.dbias + i, LoadN(row.dbias + i, rest) + gradient, rest);
    if constexpr (kWithValue) StoreN(y + i, gelu.value, rest);
  }
}

template <typename Form, typename T>
void BackwardWithOrWithoutValue(const GeluGradientRow& row) {
  if (row.y != nullptr) return Backward<Form, T, true>(row);
  Backward<Form, T, false>(row);
}

template <typename Form>
void ForwardByDType(const GeluRow& row) {
  switch (row.dtype) {
    case DType::kBFloat16: return Forward<Form, BFloat16>(row);
    case DType::kFloat16: return Forward<Form, Float16>(row);
    default: return Forward<Form, float>(row);
  }
}

template <typename Form>
void BackwardByDType(const GeluGradientRow& row) {
  switch (row.dtype) {
    case DType::kBFloat16: return BackwardWithOrWithoutValue<Form, BFloat16>(row);
    case DType::kFloat16: return BackwardWithOrWithoutValue<Form, Float16>(row);
    default: return BackwardWithOrWithoutValue<Form, float>(row);
  }
}

}  // namespace

void BiasGelu(const GeluRow& row) {
  if (row.kind == GeluKind::kTanh) return ForwardByDType<TanhForm>(row);
  ForwardByDType<ErfForm>(row);
}

void BiasGeluGradient(const GeluGradientRow& row) {
  if (row.kind == GeluKind::kTanh) return BackwardByDType<TanhForm>(row);
  BackwardByDType<ErfForm>(row);
}

}  // namespace sepia::kernels::cpu::SEPIA_ISA
