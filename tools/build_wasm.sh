#!/bin/sh
# Build the kernel for browsers from its own source: src/onelayer/live/page/kernel.wasm, or the file that is named.
#
# It takes clang with the target wasm32, and wasm-ld of lld. CMake calls it where they are found. The environment variable
# CLANG names another clang.
set -eu
cd "$(dirname "$0")/../src/onelayer/kernel"
out=${1:-../live/page/kernel.wasm}
headers=$(mktemp -d)
trap 'rm -r "$headers"' EXIT
for header in cstdint math.h stdlib.h string.h type_traits utility; do
    ln -s "$PWD/freestanding.hpp" "$headers/$header"
done
# Small first: -O3 is as quick, and twice as large. Whole-program optimisation leaves out what no export calls.
"${CLANG:-clang}" --target=wasm32 -msimd128 -mbulk-memory -std=c++20 -Os -flto -fno-math-errno -fno-exceptions -fno-rtti \
    -fvisibility=hidden -nostdlib -nostdinc++ -Wall -Wextra -Wl,--no-entry -Wl,--strip-all -isystem "$headers" \
    -DKERNEL=baseline_kernel -DKERNEL_NAME='"wasm"' -DPROBABILITIES=baseline_probabilities -DPATCHES=baseline_patches \
    -o "$out" kernel.cpp probabilities.cpp wasm.cpp
