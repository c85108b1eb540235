#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Trains every combination of schedules x targets x weightings, each in its own run folder. Run it again to go
# on: finished arms are skipped, interrupted ones resume. With more steps, finished ones go on too (where the learning
# rate decays, the length is part of the maths: add --allow-change train.steps).
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/sweep.sh [--count | --list | --table | --arm N] CONFIG [diffuse train options...]
  --count   prints the number of arms          --list    prints them, one a line
  --arm N   trains arm N (0, 1, ...) only      --table   prints how far each is
environment, with defaults:
  SCHEDULES="linear cosine sigmoid"  TARGETS="epsilon x0 velocity"  WEIGHTINGS="simple min_snr vlb"
  SWEEP_ROOT=runs/sweep              DIFFUSE=build/diffuse
example:
  SCHEDULES="linear cosine" WEIGHTINGS=simple scripts/sweep.sh configs/digits.yaml --set train.steps=500
EOF
}

mode=all arm=''
while (($#)); do
  case $1 in
    --count | --list | --table) mode=${1#--} ;;
    --arm)
      (($# > 1)) || { usage >&2 && exit 2; }
      mode=arm arm=$2 && shift
      ;;
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && exit 2 ;;
    *) break ;;
  esac
  shift
done

read -r -a schedules <<<"${SCHEDULES:-linear cosine sigmoid}"
read -r -a targets <<<"${TARGETS:-epsilon x0 velocity}"
read -r -a weightings <<<"${WEIGHTINGS:-simple min_snr vlb}"
sweep_root=${SWEEP_ROOT:-runs/sweep}
diffuse=${DIFFUSE:-build/diffuse}

arms=()
for schedule in "${schedules[@]}"; do
  for target in "${targets[@]}"; do
    for weighting in "${weightings[@]}"; do
      arms+=("$schedule-$target-$weighting")
    done
  done
done

((${#arms[@]})) || { echo 'error: no arms: SCHEDULES, TARGETS and WEIGHTINGS need a name each' >&2 && exit 2; }

# The value of KEY in a flat JSON text on stdin.
json_value() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1; }

table() {
  local name folder state step loss
  printf '%-36s %-12s %10s %14s\n' arm state step loss
  for name in "${arms[@]}"; do
    folder=$sweep_root/$name state='' step='' loss=''
    if [[ -f $folder/status.json ]]; then
      state=$(json_value state <"$folder/status.json")
      step=$(step_of "$name")
    fi
    [[ -f $folder/metrics.jsonl ]] && loss=$(tail -n 1 "$folder/metrics.jsonl" | json_value loss)
    [[ -n ${failed[$name]:-} ]] && state="exit ${failed[$name]}"
    printf '%-36s %-12s %10s %14s\n' "$name" "${state:--}" "${step:--}" "${loss:--}"
  done
}

# What the signal asks this script to exit with; the running `diffuse` saves and ends. A terminal's Ctrl-C reaches it by
# itself; the others may have been sent to this script alone.
stop=0 running=''
trap 'stop=130' INT
trap 'stop=75; [[ -z $running ]] || kill -TERM "$running" 2>/dev/null || true' TERM USR1 HUP

# Runs a command and returns its exit code. It is waited for in a way that lets a signal through meanwhile.
run() {
  local code=0
  "$@" &
  running=$!
  while kill -0 "$running" 2>/dev/null; do wait "$running" || true; done
  wait "$running" || code=$?
  running=''
  return "$code"
}

step_of() { json_value step 2>/dev/null <"$sweep_root/$1/status.json" || true; }

# train NAME [diffuse train options...]: one arm to its end. Exit code 75 means stopped after saving, run again; unless
# nothing was gained by it.
train() {
  local name=$1 schedule target weighting code before
  shift
  IFS=- read -r schedule target weighting <<<"$name"
  while true; do
    code=0 before=$(step_of "$name")
    run "$diffuse" train "$config" --run-dir "$sweep_root/$name" --set "diffusion.schedule=$schedule" \
      --set "diffusion.target=$target" --set "diffusion.weighting=$weighting" "$@" || code=$?
    ((code == 130 && stop == 0)) && stop=130
    ((stop == 0)) || return "$stop"
    ((code == 75)) || break
    [[ $(step_of "$name") != "${before:-0}" ]] || return 75
  done
  ((code == 0)) && printf '%q ' "$@" >"$sweep_root/$name/sweep-options.txt"
  return "$code"
}

# finished NAME [diffuse train options...]: whether an arm has nothing left to do. With other options or a config changed
# since, only diffuse can tell.
finished() {
  local folder=$sweep_root/$1
  shift
  [[ -f $folder/sweep-options.txt && $(<"$folder/sweep-options.txt") == "$(printf '%q ' "$@")" ]] &&
    [[ $(json_value state <"$folder/status.json") == finished && ! $config -nt $folder/status.json ]]
}

declare -A failed=()
case $mode in
  count) echo "${#arms[@]}" && exit 0 ;;
  list) printf '%s\n' "${arms[@]}" && exit 0 ;;
  table) table && exit 0 ;;
esac

(($#)) || { usage >&2 && exit 2; }
config=$1
shift
[[ -f $config ]] || { echo "error: no config '$config'" >&2 && exit 2; }
[[ -x $diffuse ]] || { echo "error: no program '$diffuse'; build it with scripts/setup, or set DIFFUSE" >&2 && exit 2; }

if [[ $mode == arm ]]; then
  if ! [[ $arm =~ ^[0-9]+$ ]] || ((10#$arm >= ${#arms[@]})); then
    echo "error: --arm must be 0 to $((${#arms[@]} - 1)), got '$arm'" >&2
    exit 2
  fi
  arms=("${arms[10#$arm]}")
fi

for name in "${arms[@]}"; do
  if finished "$name" "$@"; then
    echo "== $name: finished before" >&2
    continue
  fi
  echo "== $name" >&2
  code=0
  train "$name" "$@" || code=$?
  ((stop == 0)) || break
  ((code == 0)) || failed[$name]=$code
done

table
((stop == 0)) || exit "$stop"
((${#failed[@]} == 0)) || {
  echo "error: ${#failed[@]} of ${#arms[@]} arms failed" >&2
  exit 1
}
