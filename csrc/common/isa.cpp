#include "common/isa.hpp"

#include <cstdlib>
#include <stdexcept>

namespace tmor {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::portable:
      break;
  }
  return "portable";
}

std::vector<Isa> compiled_isas() {
  std::vector<Isa> result{Isa::portable};
#if defined(TMOR_HAVE_AVX2)
  result.push_back(Isa::avx2);
#endif
#if defined(TMOR_HAVE_AVX512)
  result.push_back(Isa::avx512);
#endif
#if defined(TMOR_HAVE_AVX512_VNNI)
  result.push_back(Isa::avx512_vnni);
#endif
#if defined(TMOR_HAVE_AVX512_BF16)
  result.push_back(Isa::avx512_bf16);
#endif
  return result;
}

static bool runs_here(Isa isa) {
#if defined(TMOR_HAVE_AVX2) || defined(TMOR_HAVE_AVX512)
  // The compiler's runtime also asks whether the operating system saves the wide registers.
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (isa == Isa::avx512) return avx512;
  if (isa == Isa::avx512_vnni) return vnni;
  if (isa == Isa::avx512_bf16) return vnni && __builtin_cpu_supports("avx512bf16");
#endif
  return isa == Isa::portable;
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> result;
  for (const Isa isa : compiled_isas()) {
    if (runs_here(isa)) result.push_back(isa);
  }
  return result;
}

Isa select_isa(const std::string& requested) {
  std::string name = requested;
  if (name.empty()) {
    const char* environment = std::getenv("TMOR_ISA");
    if (environment != nullptr) name = environment;
  }
  const std::vector<Isa> supported = supported_isas();
  if (name.empty()) return supported.back();
  std::string accepted;
  for (const Isa isa : supported) {
    if (name == isa_name(isa)) return isa;
    accepted += accepted.empty() ? "" : ", ";
    accepted += isa_name(isa);
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' (argument isa or variable TMOR_ISA) cannot run here; accepted: " + accepted);
}

}  // namespace tmor
