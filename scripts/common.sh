# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by the scripts beside it: the checkout's root as working directory, timed steps, one summary.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD

# Rows "seconds<TAB>what<TAB>result" of every step, also of the scripts that this one calls.
if [[ -z ${DIFFUSE_STEPS:-} ]]; then
  DIFFUSE_STEPS=$(mktemp)
  export DIFFUSE_STEPS
  summary_owner=1
  trap 'rm -f "$DIFFUSE_STEPS"' EXIT
fi

say() { printf '    %s\n' "$*"; }

step() {
  step_title=$1
  step_start=$(date +%s)
  printf '==> %s\n' "$1"
}

# finish RESULT: closes the step that `step` opened.
finish() {
  local seconds=$(($(date +%s) - step_start))
  say "$1 (${seconds} s)"
  printf '%s\t%s\t%s\n' "$seconds" "$step_title" "$1" >>"$DIFFUSE_STEPS"
}

# fail WHAT REMEDY...: one message, exit 1.
fail() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  printf '       %s\n' "$@" >&2
  exit 1
}

# summary TITLE: prints the steps, from the outermost script only.
summary() {
  [[ -n ${summary_owner:-} ]] || return 0
  local total=0 seconds what result
  printf '\n%s\n' "$1"
  while IFS=$'\t' read -r seconds what result; do
    printf '  %5d s  %-34s %s\n' "$seconds" "$what" "$result"
    total=$((total + seconds))
  done <"$DIFFUSE_STEPS"
  printf '  %5d s  in all\n' "$total"
}

# Compilations at a time: one a core, but 2 GB of memory each (LibTorch's headers need up to 1.4 GB).
build_jobs() {
  local cores memory_kb limit jobs
  cores=$(nproc)
  memory_kb=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [[ $limit =~ ^[0-9]+$ ]]; then
    ((limit / 1024 < memory_kb)) && memory_kb=$((limit / 1024))
  fi
  jobs=$(((memory_kb + 200 * 1024) / (2 * 1024 * 1024)))
  ((jobs < 1)) && jobs=1
  ((jobs > cores)) && jobs=$cores
  echo "$jobs"
}

# build FOLDER TARGET [CMAKE ARGUMENT...]: configures and builds.
build() {
  local folder=$1 target=$2 home jobs
  shift 2
  if [[ -f $folder/CMakeCache.txt ]]; then
    home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$folder/CMakeCache.txt")
    [[ $home -ef $root ]] || fail "$folder was configured for another checkout ($home)" "Remove it: rm -r $folder"
  fi
  jobs=$(build_jobs)
  step "Build $folder, $jobs at a time"
  mkdir -p "$folder"
  cmake -S . -B "$folder" -G Ninja "$@" >"$folder/configure.log" 2>&1 || {
    cat "$folder/configure.log" >&2
    fail "configuring $folder failed, see above" "If a package is missing: scripts/setup installs what is needed."
  }
  cmake --build "$folder" --target "$target" -j "$jobs" || fail "building $folder failed, see above" \
    "If the compiler was killed, memory ran out: cmake --build $folder -j 1"
  finish "built"
}
