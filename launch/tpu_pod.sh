#!/usr/bin/env bash
# Trains on a Cloud TPU slice, one process a host:
#
#   launch/tpu_pod.sh [--create TYPE VERSION] NAME ZONE CONFIG WORKDIR [--config.KEY=VALUE …]
#
# NAME is a TPU VM that exists; --create makes it first, for example of v5litepod-16 with v2-alpha-tpuv5-lite. CONFIG lies in this
# repository, which is installed on every host; WORKDIR is a folder that all hosts share, such as a mounted Filestore.
# Started again it goes on. To stop, saved:
#
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f "[d]iffbir_jax.train"'
#
# Several slices: gke-xpk.md.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

# The next two run on every host.
install_here() {
  set -e
  mkdir -p diffbir_jax
  tar -xzf diffbir_jax.tar.gz -C diffbir_jax
  cd diffbir_jax
  python3 -m pip install --quiet --user uv
  [[ -d .venv ]] || python3 -m uv venv --quiet --python 3.11
  python3 -m uv pip install --quiet --constraint constraints.txt -e '.[tpu]'
}

train_here() { # the slice's metadata tell the hosts, as addresses or NAME:ID:ADDRESS, and which of them this is
  local attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes endpoints index hosts among=()
  set -e
  endpoints=$(curl -sSf -H 'Metadata-Flavor: Google' "$attributes/worker-network-endpoints")
  index=$(curl -sSf -H 'Metadata-Flavor: Google' "$attributes/agent-worker-number")
  IFS=, read -r -a hosts <<<"$endpoints"
  if ((${#hosts[@]} > 1)); then
    among=(--coordinator "${hosts[0]##*:}:8482" --process-count "${#hosts[@]}" --process-index "$index")
  fi
  cd diffbir_jax
  exec .venv/bin/python -m diffbir_jax.train "$@" "${among[@]}"
}

create=()
if [[ ${1-} == --create ]]; then
  (($# >= 3)) || refuse "--create lacks its values; give TYPE VERSION, for example v5litepod-16 v2-alpha-tpuv5-lite"
  create=(--accelerator-type="$2" --version="$3")
  shift 3
fi
(($# >= 4)) || refuse "$# arguments given; give [--create TYPE VERSION] NAME ZONE CONFIG WORKDIR [--config.KEY=VALUE …]"
name=$1 zone=$2 config=$3 workdir=$4
shift 4
[[ -f ${config%%:*} ]] || refuse "no recipe ${config%%:*} is in the repository; give one, as in configs/stage1_imagenet.py"
for flag; do
  [[ $flag == --config.*=* ]] || refuse "$flag was not understood; what follows WORKDIR is --config.KEY=VALUE"
done

tpu() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$@" --zone="$zone"
}

on_all() { # a function of this file, with its arguments
  tpu ssh "$name" --worker=all --command="$(declare -f "$1"); $(printf '%q ' "$@")"
}

if ((${#create[@]})); then
  tpu create "$name" "${create[@]}"
  echo "tpu_pod.sh: $name costs until: gcloud compute tpus tpu-vm delete $name --zone=$zone"
fi
packed=$(mktemp -d)
trap 'rm -r "$packed"' EXIT
tar -czf "$packed/diffbir_jax.tar.gz" --exclude=__pycache__ configs diffbir_jax constraints.txt pyproject.toml README.md LICENSE
tpu scp "$packed/diffbir_jax.tar.gz" "$name:" --worker=all
on_all install_here
on_all train_here --config "$config" --workdir "$workdir" "$@"
