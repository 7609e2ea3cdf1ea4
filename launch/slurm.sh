#!/usr/bin/env bash
# Trains on N nodes of 8 A100, one process a GPU, which is how JAX reads Slurm:
#
#   sbatch --nodes=N launch/slurm.sh CONFIG WORKDIR [--config.KEY=VALUE …]
#
# from the repository, its Python environment active; WORKDIR is on a file system that all nodes share. Flags given to sbatch
# (--time, --partition, --account) go before those below. Five minutes before the time limit the run saves, and the job queues
# again to go on; so it does after a node fails or the job is preempted. `scancel JOB` ends it, saved.
#SBATCH --job-name=diffbir_jax
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

refuse() {
  echo "slurm.sh: $1" >&2
  exit 2
}

(($# >= 2)) || refuse "$# arguments given; give CONFIG WORKDIR [--config.KEY=VALUE …], as in configs/stage1_imagenet.py run"
config=$1 workdir=$2
shift 2
[[ -f ${config%%:*} ]] || refuse "no recipe ${config%%:*} is below $PWD; submit from the repository, which has configs/"
for flag; do
  [[ $flag == --config.*=* ]] || refuse "$flag was not understood; what follows WORKDIR is --config.KEY=VALUE"
done
[[ -n ${SLURM_JOB_ID-} ]] || refuse "this is no Slurm job; submit with: sbatch --nodes=1 $0 $config $workdir $*"

export XLA_FLAGS="${XLA_FLAGS-} --xla_gpu_enable_latency_hiding_scheduler=true" # gradients travel while others are computed

# The limit's signal comes to this shell alone, so that `scancel`, which sends TERM, does not queue the job again.
limit=
trap 'limit=reached; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-12}" \
  python -m diffbir_jax.train --config "$config" --workdir "$workdir" "$@" &
code=0
wait "$!" || code=$?
if [[ $limit ]]; then # the trap interrupted the wait
  code=0
  wait "$!" || code=$?
  ((code)) || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
