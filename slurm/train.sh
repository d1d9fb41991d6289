#!/usr/bin/env bash
# Run one training process per Slurm task, carry stop requests to all of them, and start again what can go on.
#
#   train.sh [SRUN OPTIONS] -- COMMAND [ARGUMENTS]
#
# Exit code of the job: that of the processes. 85 = stopped early with a checkpoint. After a stop, a time limit or a
# failure the job is put back into the queue while the budget of starts lasts (budget.sh); not after wrong input (2),
# not when a person has cancelled it, not when Slurm puts it back itself (preemption, lost node), and not when another
# attempt has taken the run over (86).
set -uo pipefail

readonly STOPPED=85 TAKEN_OVER=86 WRONG_INPUT=2
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
# shellcheck source-path=SCRIPTDIR source=budget.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/budget.sh"

# Rendezvous: the first node of the allocation; its first process says in the run directory on which port it listens
if ! hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST"); then
    echo "train.sh: scontrol cannot read the node list '$SLURM_JOB_NODELIST'" >&2
    exit 1
fi
MASTER_ADDR=${hosts%%$'\n'*}
if ! getent hosts "$MASTER_ADDR" >/dev/null; then # Slurm knows the address of a node whose name nobody else knows
    address=$(scontrol --oneliner show node "$MASTER_ADDR" | grep -o 'NodeAddr=[^ ]*') && MASTER_ADDR=${address#*=}
fi
export MASTER_ADDR
unset MASTER_PORT # of whoever submitted the job
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
export PYTHONUNBUFFERED=1
export SLURM_EXPORT_ENV=ALL # under `sbatch --export=NONE` the tasks would have no PATH

# The processes stop by themselves as long before this as their checkpoints have been seen to take
if ends_at=$(date --date="$(squeue --noheader --job="$SLURM_JOB_ID" --format=%e 2>/dev/null)" +%s 2>/dev/null); then
    export HIERLM_JOB_ENDS_AT=$ends_at
fi

# A job that may shrink runs on all its nodes, or on the most of them that HIERLM_SMALLER (NODES:DATA_PARALLEL_DEGREE,
# largest first) names
shape_arguments=()
num_tasks=
if [[ -n ${HIERLM_SMALLER:-} ]]; then
    num_nodes=$SLURM_JOB_NUM_NODES
    if ((num_nodes < HIERLM_NUM_NODES)); then
        for shape in $HIERLM_SMALLER; do
            ((${shape%:*} > num_nodes)) || break
        done
        num_nodes=${shape%:*}
        shape_arguments=(--data-parallel-degree "${shape#*:}")
        echo "job ${SLURM_JOB_ID}: $SLURM_JOB_NUM_NODES of $HIERLM_NUM_NODES nodes, going on with data_parallel_degree ${shape#*:}"
    fi
    num_tasks=$((num_nodes * HIERLM_TASKS_PER_NODE))
    srun_options+=("--nodes=$num_nodes" --relative=0 "--ntasks=$num_tasks" "--ntasks-per-node=$HIERLM_TASKS_PER_NODE")
fi

who_ends_the_job() { # prints slurm (puts it back itself), limit, person, or nobody
    local state
    state=" $(scontrol --oneliner show job "$SLURM_JOB_ID") "
    if [[ $state =~ \ Restarts=([0-9]+)\  ]] && ((BASH_REMATCH[1] > ${SLURM_RESTART_COUNT:-0})); then
        echo slurm
    elif [[ $state == *" Reason=TimeLimit "* ]]; then
        echo limit
    elif [[ $state == *" JobState=CANCELLED "* || $state == *" JobState=COMPLETING "* ]]; then
        echo person
    else
        echo nobody
    fi
}

put_back() { # EXIT_CODE REASON: into the queue, or give up
    local used_up
    used_up=$(why_no_more_starts)
    if [[ -n $used_up ]]; then
        give_up "$1" "$used_up; last: $2"
        return
    fi
    echo "job $job_name: $2, back into the queue"
    record end "\"exit_code\": $1, \"then\": \"requeue\", \"reason\": \"$2\"" # first: what follows may end this script
    if ! scontrol requeue "$SLURM_JOB_ID"; then
        record end "\"exit_code\": $1, \"then\": \"stop\", \"reason\": \"$2; the job cannot be requeued\""
        echo "job $job_name cannot be requeued: submit it again to go on" >&2
    fi
}

# srun runs in the background, and this script looks five times a second whether it has ended. Traps run between two
# looks: bash (5.2) loses the status of a process that ends about when one interrupts `wait`, and hangs after one in `read`
srun_pid=
warned=
ended_by=
# shellcheck disable=SC2329 # called by the trap
on_warning() {
    warned=yes
    [[ -z $srun_pid ]] || kill -s USR1 "$srun_pid" 2>/dev/null
}
# shellcheck disable=SC2329
on_end() { # the processes have been sent SIGTERM too; KillWait (30 s, unless the site says otherwise) is left to save
    [[ -z $ended_by ]] || return
    ended_by=$(who_ends_the_job)
    [[ $ended_by != limit ]] || put_back "$STOPPED" "the time limit was reached" # now: later this script may be gone
}
trap 'on_warning' USR1
trap 'on_end' TERM

begin_start
echo "job $job_name, start $((${SLURM_RESTART_COUNT:-0} + 1)): ${num_tasks:-${SLURM_NTASKS:-1}} processes on $SLURM_JOB_NODELIST"

# The first process that ends by itself must not take the others' checkpoint away: no --kill-on-bad-exit.
# sbatch's --cpus-per-task is not inherited by srun since Slurm 22.05
srun --kill-on-bad-exit=0 --wait="$SECONDS_FOR_THE_OTHERS" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
    ${srun_options[@]+"${srun_options[@]}"} "$@" ${shape_arguments[@]+"${shape_arguments[@]}"} &
srun_pid=$!
[[ -z $warned ]] || kill -s USR1 "$srun_pid"

while kill -0 "$srun_pid" 2>/dev/null; do
    sleep 0.2
done
wait "$srun_pid"
status=$?

# 128 + USR1: the request came before the processes could listen, nothing is lost
if [[ -n $warned ]] && ((status == 128 + $(kill -l USR1))); then
    status=$STOPPED
fi
if ((status == 0)); then
    record end '"exit_code": 0, "then": "stop"'
    exit 0
fi
if ((status == TAKEN_OVER)); then # no record either: the account belongs to the job that has the run now
    echo "job $job_name: another attempt has taken over the run, this job ends for good"
    exit "$status"
fi
case ${ended_by:-$(who_ends_the_job)} in
    slurm) record end "\"exit_code\": $status, \"then\": \"requeue\", \"reason\": \"preempted, or a node was lost\"" ;;
    limit) [[ -n $ended_by ]] || put_back "$status" "the time limit was reached" ;;
    person) record end "\"exit_code\": $status, \"then\": \"stop\", \"reason\": \"cancelled\"" ;;
    nobody)
        if [[ -n $ended_by ]]; then
            record end "\"exit_code\": $status, \"then\": \"stop\", \"reason\": \"the job script was sent SIGTERM\""
        elif ((status == WRONG_INPUT)); then
            record end "\"exit_code\": $status, \"then\": \"stop\", \"reason\": \"the input is wrong\""
        elif ((status == STOPPED)); then
            put_back "$status" "stopped early"
        else
            put_back "$status" "failed with exit code $status"
        fi
        ;;
esac
exit "$status"
