# Shared by the scripts: where things are, and which preset this machine gets. Sourced, not run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf 'tandem: %s\n' "$*" >&2; }

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

# Compute capability of the first card as "9.0", or nothing.
card_capability() {
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 || true
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

# build PRESET [cmake flags]: configures and builds build/PRESET.
build() {
  local name=$1
  shift
  cmake --preset "$name" "$@" >"$root/build-$name.log" 2>&1 || {
    cat "$root/build-$name.log" >&2
    rm -f "$root/build-$name.log"
    say "configuring preset $name failed; 'scripts/bootstrap' installs what is missing"
    return 1
  }
  rm -f "$root/build-$name.log"
  cmake --build "build/$name" --parallel "$(nproc)" -- ${TANDEM_NINJA_FLAGS:-} >&2
}

python=$root/.venv/bin/python
