# Shared by the scripts: where things are, and which preset this machine gets. Sourced, not run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf 'tandem: %s\n' "$*" >&2; }

# The comment that a script begins with.
print_help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

# For a script that takes nothing but --help, which never does anything else.
only_help() {
  case ${1:-} in
    "") ;;
    -h | --help) print_help; exit 0 ;;
    *) say "unknown argument '$1' (see scripts/$(basename "$0") --help)"; exit 2 ;;
  esac
}

find_nvcc() {
  local candidate
  for candidate in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    if [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
}

# "13.0" of the nvcc found, or nothing.
nvcc_version() {
  local nvcc
  nvcc=$(find_nvcc)
  [ -z "$nvcc" ] || "$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p'
}

# Compute capability of the first card as "9.0", or nothing: without a card or a driver nvidia-smi says so where the number would be.
card_capability() {
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | grep -xE '[0-9]+\.[0-9]+' || true
}

# Sets preset, configure_flags and preset_reason.
choose_preset() {
  local version capability
  version=$(nvcc_version)
  capability=$(card_capability)
  configure_flags=()
  if [ -z "$version" ] || [ "${version%%.*}" -lt 13 ]; then
    preset=cpu
    preset_reason="no CUDA toolkit 13 or later here: the reference engine only"
  elif [ -n "$capability" ] && [ "${capability%%.*}" -lt 8 ]; then
    preset=cpu
    preset_reason="a card of compute capability $capability, and engine cuda needs 8.0: the reference engine only"
  elif [ -n "$capability" ]; then
    preset=cuda
    local arch=${capability/./}
    [ "$arch" = 90 ] && arch=90a
    configure_flags+=("-DCMAKE_CUDA_ARCHITECTURES=$arch")
    preset_reason="CUDA $version and a card of compute capability $capability"
  else
    preset=h200
    preset_reason="CUDA $version but no card: the CUDA engine is built for sm_90a and not run"
  fi
  if [ "$preset" != cpu ]; then
    configure_flags+=("-DCMAKE_CUDA_COMPILER=$(find_nvcc)")
  fi
}

# After choose_preset: what runs needs the reference engine alone, so nothing is built for a card.
take_preset_cpu() { # take_preset_cpu REASON
  preset=cpu configure_flags=() preset_reason=$1
}

# Tenths of a CPU-second for one object without ccache, derived from the CPU-seconds of whole builds.
tenths_cxx=25
tenths_cuda=200

# Minutes that building these targets will take on all cores here, in words; nothing where there is nothing to build.
how_long() { # how_long FOLDER TARGETS...
  local steps cxx cuda
  steps=$(cmake --build "$1" ${2:+--target "${@:2}"} -- -n 2>/dev/null || true)
  cxx=$(grep -c 'Building CXX' <<<"$steps" || true)
  cuda=$(grep -c 'Building CUDA' <<<"$steps" || true)
  [ $((cxx + cuda)) -gt 0 ] || return 0
  local seconds=$(((cxx * tenths_cxx + cuda * tenths_cuda) / 10 / $(nproc)))
  if [ $seconds -lt 90 ]; then echo "about $((seconds + 1)) s"; else echo "about $(((seconds + 30) / 60)) min"; fi
}

# build PRESET [cmake flags] [-- targets]: configures and builds build/PRESET, all of it where no target is named. Of the preset
# that this machine gets, build/bin is then a link to its programs.
build() {
  local name=$1 flags=() long
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do flags+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  cmake --preset "$name" "${flags[@]}" >"$root/build-$name.log" 2>&1 || {
    cat "$root/build-$name.log" >&2
    rm -f "$root/build-$name.log"
    say "configuring preset $name failed; 'scripts/bootstrap' installs what is missing"
    return 1
  }
  rm -f "$root/build-$name.log"
  long=$(how_long "build/$name" "$@")
  [ -z "$long" ] || say "building with $(nproc) cores: $long, less with what ccache has"
  cmake --build "build/$name" --parallel "$(nproc)" ${1:+--target "$@"} -- ${TANDEM_NINJA_FLAGS:-} >&2
  [ "$name" != "${preset:-}" ] || ln -sfn "$name/bin" build/bin
}

python=$root/.venv/bin/python
