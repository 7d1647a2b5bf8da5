// AdamW in double (Loshchilov & Hutter, decoupled weight decay), one element.
#pragma once

#include <cmath>
#include <cstdint>

namespace sepia::testing {

struct AdamWState {
  double p, m, v;
};

struct AdamWHyper {
  double lr, beta1, beta2, eps, weight_decay;
};

inline AdamWState AdamWStep(AdamWState s, double g, const AdamWHyper& h, int64_t t) {
  const auto step = static_cast<double>(t);
  s.m = h.beta1 * s.m + (1.0 - h.beta1) * g;
  s.v = h.beta2 * s.v + (1.0 - h.beta2) * g * g;
  const double m_hat = s.m / (1.0 - std::pow(h.beta1, step));
  const double v_hat = s.v / (1.0 - std::pow(h.beta2, step));
  s.p -= h.lr * (m_hat / (std::sqrt(v_hat) + h.eps) + h.weight_decay * s.p);
  return s;
}

}  // namespace sepia::testing
