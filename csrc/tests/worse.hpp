// Errors of tests.
#pragma once

#include <cmath>

// The larger of two errors; a NaN counts as the largest.
inline double worse(double worst, double error) { return std::isnan(error) || error > worst ? error : worst; }
