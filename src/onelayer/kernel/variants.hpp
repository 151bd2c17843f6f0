// Which kernel to call. The same source is compiled for several instruction sets.
#pragma once

#include "kernel.hpp"

#include <string>
#include <vector>

namespace onelayer {

// The names of those that this machine can run, the quickest first.
std::vector<std::string> variants();

// The one in use: the quickest, or the one that the environment variable ONELAYER_KERNEL names. It is read at each call,
// so that a test can change it. Throws std::invalid_argument if that does not run here.
const Kernel &chosen();

}  // namespace onelayer
