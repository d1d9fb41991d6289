# shellcheck shell=bash
# How often a run may start. Sourced by train.sh; the account is RUN_DIR/jobs.jsonl, which outlives every job.
#
# HIERLM_RUN_DIR                         the run; without it nothing is counted
# HIERLM_MAX_STARTS                      starts since the last `hierlm submit`, whatever ended them
# HIERLM_MAX_STARTS_WITHOUT_PROGRESS     starts in a row from the same checkpoint
#
# Starts are counted, not failures: a job that is killed with its node cannot say that it failed.

run_dir=${HIERLM_RUN_DIR:-}
max_starts=${HIERLM_MAX_STARTS:-100}
max_without_progress=${HIERLM_MAX_STARTS_WITHOUT_PROGRESS:-5}
job_name=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
job_name=${job_name:-${SLURM_JOB_ID:-}}

newest_checkpoint() { # step of the newest one with a manifest, -1 when there is none
    local path newest=-1
    for path in "$run_dir"/checkpoints/step-*/manifest.json; do
        path=${path%/manifest.json}
        path=${path##*/step-}
        [[ $path =~ ^[0-9]+$ ]] && ((10#$path > newest)) && newest=$((10#$path))
    done
    echo "$newest"
}

record() { # EVENT FURTHER_JSON_FIELDS; a full disk must not end the job
    [[ -d $run_dir ]] || return 0
    printf '{"time": "%s", "event": "%s", "job_id": "%s", %s}\n' \
        "$(date --utc +%Y-%m-%dT%H:%M:%SZ)" "$1" "$job_name" "$2" >>"$run_dir/jobs.jsonl" || true
}

counted_starts() { # STEP -> "starts since the last submit" "those from the checkpoint of STEP"
    awk -v same="\"newest_checkpoint\": $1," '
        /"event": "submit"/ { all = 0; from_here = 0 }
        /"event": "start"/ { all += 1; if (index($0, same)) from_here += 1 }
        END { print all + 0, from_here + 0 }' "$run_dir/jobs.jsonl" 2>/dev/null || echo 0 0
}

why_no_more_starts() { # prints the reason when the budget is used up
    local all from_here newest
    [[ -d $run_dir ]] || return 0
    newest=$(newest_checkpoint)
    read -r all from_here < <(counted_starts "$newest")
    if ((from_here >= max_without_progress)); then
        local from="the checkpoint of step $newest"
        ((newest >= 0)) || from="nothing"
        echo "gave up after $from_here starts from $from without a newer checkpoint"
    elif ((all >= max_starts)); then
        echo "gave up after $all starts"
    fi
}

begin_start() { # leaves the job when there is nothing to do or nothing may be done
    local reason
    if [[ -d $run_dir && -e $run_dir/FINISHED ]]; then
        echo "job $job_name: $run_dir is finished, nothing is left to do"
        exit 0
    fi
    reason=$(why_no_more_starts)
    if [[ -n $reason ]]; then
        give_up 1 "$reason"
        exit 1
    fi
    record start "\"restart\": ${SLURM_RESTART_COUNT:-0}, \"newest_checkpoint\": $(newest_checkpoint), \"nodes\": \"$SLURM_JOB_NODELIST\""
}

give_up() { # EXIT_CODE REASON
    record end "\"exit_code\": $1, \"then\": \"stop\", \"reason\": \"$2\""
    echo "job $job_name $2 (exit code $1); \`hierlm submit\` starts a new count" >&2
}
