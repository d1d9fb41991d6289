#!/usr/bin/env bash
# Run one training process per Slurm task and carry stop requests to all of them.
#
#   train.sh [SRUN OPTIONS] -- COMMAND [ARGUMENTS]
#
# Exit code of the job: that of the processes. 85 = stopped early with a checkpoint: the job is put back into the
# queue first, unless it is being cancelled or ended by Slurm itself.
set -uo pipefail

readonly STOPPED=85
readonly SECONDS_FOR_THE_OTHERS=60 # after the first process has ended

srun_options=()
while (($#)) && [[ $1 != -- ]]; do
    srun_options+=("$1")
    shift
done
if (($# < 2)); then
    echo "usage: train.sh [SRUN OPTIONS] -- COMMAND [ARGUMENTS]" >&2
    exit 2
fi
shift
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "train.sh: runs inside a Slurm job only; on this machine: hierlm train CONFIG" >&2
    exit 2
fi

# Rendezvous: the first node of the allocation, a port below the ephemeral range that two jobs on one node do not share
if ! hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST"); then
    echo "train.sh: scontrol cannot read the node list '$SLURM_JOB_NODELIST'" >&2
    exit 1
fi
export MASTER_ADDR=${hosts%%$'\n'*}
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export PYTHONUNBUFFERED=1
export SLURM_EXPORT_ENV=ALL # under `sbatch --export=NONE` the tasks would have no PATH

# srun runs in the background: bash runs a trap at once only while it is in `wait`
srun_pid=
interrupted=
stop_requested=
ended_by_slurm=
trap 'interrupted=yes stop_requested=yes; [[ -z $srun_pid ]] || kill -s USR1 "$srun_pid" 2>/dev/null' USR1
trap 'interrupted=yes ended_by_slurm=yes' TERM # cancel, preemption, time limit: the tasks have been sent it too

echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): ${SLURM_NTASKS:-1} processes on $SLURM_JOB_NODELIST"

# The first process that ends by itself must not take the others' checkpoint away: no --kill-on-bad-exit.
# sbatch's --cpus-per-task is not inherited by srun since Slurm 22.05
srun --kill-on-bad-exit=0 --wait="$SECONDS_FOR_THE_OTHERS" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    ${srun_options[@]+"${srun_options[@]}"} "$@" &
srun_pid=$!
[[ -z $stop_requested ]] || kill -s USR1 "$srun_pid"

status=127
while true; do
    interrupted=
    wait "$srun_pid"
    code=$?
    # 127: there is nothing left to wait for, the status came with the wait that a signal seemed to have interrupted
    ((code == 127)) || status=$code
    [[ -n $interrupted ]] || break
done

# 128 + USR1: the request came before the processes could listen, nothing is lost
if [[ -n $stop_requested ]] && ((status == 128 + $(kill -l USR1))); then
    status=$STOPPED
fi
if ((status == STOPPED)) && [[ -z $ended_by_slurm ]]; then
    echo "job $SLURM_JOB_ID stopped early, back into the queue"
    scontrol requeue "$SLURM_JOB_ID" || echo "job $SLURM_JOB_ID cannot be requeued: submit it again to go on" >&2
fi
exit "$status"
