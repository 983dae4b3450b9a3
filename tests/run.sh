#!/bin/bash
# Builds zds and runs every check that it has; installs what that needs (Debian 12).
# usage: tests/run.sh [--quick | STAGE...]
#   stages, in this order without arguments:
#     format   clang-format over all C files
#     gcc      build with warnings as errors, then all tests, those of installing and examples too
#     clang    the same build by clang, and its fuzz targets for a minute
#     tidy     clang-tidy over all C files
#     address  all tests under AddressSanitizer and UndefinedBehaviorSanitizer
#     avx512   kernels for AVX-512, emulated, against those that everybody's processor runs, and parity
#     thread   tests of threads and shared memory under ThreadSanitizer
#   --quick    format and gcc
# Build folders are kept in $ZDS_CHECK_DIR (build-check) and used again. Each check's output is in
# its logs/ folder. The last line is 'N passed, N failed'; the exit code is 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
root=$PWD
work=${ZDS_CHECK_DIR:-$root/build-check}
jobs=$(nproc)
passed=0 failed=0 skipped=0

# check NAME COMMAND...: counts one check; its output goes to a log, whose end is shown if it fails.
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$work/logs/$name.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $name ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        echo "FAIL  $name ($((SECONDS - start)) s), $work/logs/$name.log ends with:"
        tail -n 60 "$work/logs/$name.log" | sed 's/^/      /'
        return 1
    fi
}

# report FILE.xml: counts of passed, failed, skipped tests of a ctest run; then, of each that failed,
# the lines that say so, wherever they are, and the end.
report() {
    python3 - "$1" <<'PYTHON'
import re, sys, xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot()
failed = int(suite.get("failures"))
skipped = int(suite.get("skipped")) + int(suite.get("disabled"))
tests = int(suite.get("tests"))
if not tests:
    sys.exit("no test has run")
print(tests - failed - skipped, failed, skipped)
for case in suite.iter("testcase"):
    if case.get("status") != "fail":
        continue
    print(f"--- {case.get('name')}: {case.find('failure').get('message')}")
    lines = (case.findtext("system-out") or "").splitlines()
    for i, line in enumerate(lines):
        if i >= len(lines) - 60 or re.search(r"FAIL|ERROR|^ +but:|Traceback", line):
            print(line)
PYTHON
}

# suite NAME FOLDER CTEST_ARGUMENTS...: counts the tests of one ctest run, and shows what failed.
suite() {
    local name=$1 folder=$2 start=$SECONDS log=$work/logs/$1 good bad left
    shift 2
    rm -f "$work/$name.xml"
    (cd "$folder" && ctest --output-junit "$work/$name.xml" --output-on-failure --timeout 900 \
        --no-tests=error "$@") >"$log.log" 2>&1
    report "$work/$name.xml" >"$log.report" 2>&1 || {
        echo "0 1 0"
        tail -n 60 "$log.log"
    } >"$log.report"
    read -r good bad left <"$log.report"
    passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + left))
    echo "$([ "$bad" = 0 ] && echo 'ok   ' || echo 'FAIL ') $name: $good passed, $bad failed," \
        "$left skipped ($((SECONDS - start)) s)"
    [ "$bad" = 0 ] || tail -n +2 "$log.report" | sed 's/^/      /'
}

# build FOLDER CMAKE_ARGUMENTS...; all targets, or those in $only
build() {
    local folder=$work/$1
    shift
    cmake -S "$root" -B "$folder" -G Ninja -DZDS_WERROR=ON -DZDS_ASSERTS=ON "$@" &&
        cmake --build "$folder" --target ${only:-all}
}

# targets_of FOLDER PATTERN: the targets of the tests in tests/FOLDER
targets_of() {
    local source
    for source in "$root/tests/$1"/$2.c; do
        echo "$(basename "$(dirname "$source")")_$(basename "$source" .c)"
    done
}

stage_format() {
    check format sh -c "git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror"
}

# One program at a time where several processes measure each other's silence.
all_tests() {
    suite "$1-unit" "$work/$1" -R '^unit_' -j "$jobs"
    suite "$1-system" "$work/$1" -E '^unit_'
}

stage_gcc() {
    check gcc-build build gcc -DCMAKE_C_COMPILER=gcc && all_tests gcc
}

# The fuzz targets run beside each other, a minute each.
fuzzed() {
    wait "$1"
    local code=$?
    tail -n 60 "$2"
    return $code
}

stage_clang() {
    check clang-build build clang -DCMAKE_C_COMPILER=clang -DZDS_FUZZ=ON || return
    local targets=("$work"/clang/bin/fuzz_*) target name i started=()
    [ -e "${targets[0]}" ] || return
    for target in "${targets[@]}"; do
        name=$(basename "$target")
        mkdir -p "$work/corpus/$name"
        "$target" -max_total_time=60 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$work/" "$work/corpus/$name" \
            "$root/tests/fuzz/corpus/${name#fuzz_}" >"$work/logs/$name.run" 2>&1 &
        started+=("$!")
    done
    for i in "${!targets[@]}"; do
        name=$(basename "${targets[$i]}")
        check "$name" fuzzed "${started[$i]}" "$work/logs/$name.run"
    done
}

stage_tidy() {
    [ -f "$work/gcc/compile_commands.json" ] ||
        cmake -S "$root" -B "$work/gcc" -G Ninja -DZDS_WERROR=ON -DZDS_ASSERTS=ON -DCMAKE_C_COMPILER=gcc \
            >/dev/null
    check tidy run-clang-tidy -quiet -j "$jobs" -p "$work/gcc" "^$root/(core|plugins|apps)/.*\.c$"
}

stage_address() {
    export UBSAN_OPTIONS=print_stacktrace=1
    check address-build build address -DCMAKE_C_COMPILER=gcc -DZDS_SANITIZE=address &&
        all_tests address
}

stage_avx512() {
    local only
    only="$(targets_of unit optim_\*) unit_gpt2 unit_comm_fused zds-replay zds-run zds_plugins"
    check avx512-build build avx512 -DCMAKE_C_COMPILER=gcc -DZDS_EMULATE_AVX512=ON &&
        suite avx512-tests "$work/avx512" -j "$jobs" \
            -R '^(unit_(optim_.*|gpt2|comm_fused)|parity_(replay|optim))$'
}

stage_thread() {
    local only
    only=$(targets_of threads \*)
    export TSAN_OPTIONS=halt_on_error=1
    check thread-build build thread -DCMAKE_C_COMPILER=gcc -DZDS_SANITIZE=thread &&
        suite thread-tests "$work/thread" -R '^threads_'
}

case "${1:-}" in
"") stages=(format gcc clang tidy address avx512 thread) ;;
--quick) stages=(format gcc) ;;
-*)
    sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
*) stages=("$@") ;;
esac
for stage in "${stages[@]}"; do
    declare -F "stage_$stage" >/dev/null || {
        echo "tests/run.sh: no stage '$stage'; --help lists them" >&2
        exit 2
    }
done
mkdir -p "$work/logs"
check install .ci/install test
for stage in "${stages[@]}"; do
    "stage_$stage"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
