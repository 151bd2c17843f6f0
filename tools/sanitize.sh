#!/bin/sh
# Runs the kernel's tests under AddressSanitizer and UndefinedBehaviorSanitizer. It needs GCC, and a virtual environment
# with the packages of onelayer, the group dev of pyproject.toml and nanobind. After `make test`:
#
#     .venv/bin/pip install nanobind
#     tools/sanitize.sh .venv/bin/python
#
# ONELAYER_SHAPES=200 tries a tenth of the shapes, in some minutes.
#
# The library that is built in a temporary folder takes the place of the installed one for this run only.
set -eu
python=$(command -v "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

flags="-O1 -g -std=c++20 -fPIC -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
flags="$flags -ffp-contract=fast -fno-math-errno -fvisibility=hidden -Wno-psabi -DONELAYER_X86"
source=$root/src/onelayer/kernel
compile() { # name, options
    name=$1; shift
    for part in kernel probabilities patches; do
        # shellcheck disable=SC2086
        g++ $flags "$@" -DKERNEL="${name}_kernel" -DKERNEL_NAME="\"$name\"" -DPROBABILITIES="${name}_probabilities" \
            -DPATCHES="${name}_patches" -c "$source/$part.cpp" -o "$work/$name-$part.o"
    done
}
# shellcheck disable=SC2086
g++ $flags -DBFLOAT16 -DPATCHES=emulated_bf16_patches -c "$source/patches.cpp" -o "$work/emulated.o"
compile baseline
compile avx2 -mavx2 -mfma -mf16c
compile avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma
nanobind=$("$python" -c 'import nanobind; print(nanobind.include_dir() + "/..")')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
# nanobind itself is not what is tested, and reads its own tables in ways that the sanitizers question.
g++ -O1 -std=c++17 -fPIC -fno-strict-aliasing -w -I"$include" -I"$nanobind/include" -I"$nanobind/ext/robin_map/include" \
    -c "$nanobind/src/nb_combined.cpp" -o "$work/nanobind.o"
for part in module variants; do
    # shellcheck disable=SC2086
    g++ $flags -I"$include" -I"$nanobind/include" -c "$source/$part.cpp" -o "$work/$part.o"
done
mkdir "$work/onelayer"
cp -R "$root/src/onelayer/." "$work/onelayer"
rm -f "$work"/onelayer/kernel/_kernel*.so
g++ -shared -fsanitize=address,undefined "$work"/*.o -o "$work/onelayer/kernel/_kernel$suffix"

# Python does not free everything at its end: leaks are not looked for.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
export ONELAYER_SHAPES="${ONELAYER_SHAPES:-2000}"
# An editable installation's finder comes before any path: it is taken out, and what is loaded is checked.
"$python" -c '
import sys
work, *arguments = sys.argv[1:]
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
sys.path.insert(0, work)
from onelayer.kernel import kernel
assert kernel is not None and kernel.__file__.startswith(work), kernel
import pytest
sys.exit(pytest.main(arguments))
' "$work" -p no:cacheprovider -q "$root/tests/test_kernel.py" "$root/tests/test_native.py" "$root/tests/test_native_products.py" \
    "$root/tests/test_backends.py" "$root/tests/test_patches.py" \
    -k "not ctrl_c and not 40_epochs"
