// Instruction sets: which were compiled, which this CPU runs, which one a call uses.
#pragma once

#include <string>
#include <vector>

namespace tmor {

// Each contains those before it.
enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, avx512_vnni = 3, avx512_bf16 = 4 };

const char* isa_name(Isa isa);

// What the build contains, slowest first. "portable" is always there.
std::vector<Isa> compiled_isas();

// What the build contains and this CPU and operating system can run, slowest first.
std::vector<Isa> supported_isas();

// The instruction set to use: `requested`, else the environment variable TMOR_ISA, else the fastest supported one.
// Throws std::invalid_argument if the name is unknown or the set cannot run here.
Isa select_isa(const std::string& requested);

}  // namespace tmor
