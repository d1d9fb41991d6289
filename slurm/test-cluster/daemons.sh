# shellcheck shell=bash disable=SC2154 # dir, mode, ...: set by test-cluster.sh
# The whole cluster: up and down.

bring_up() {
  [ -z "$(missing_programs)" ] || fail "Slurm is not installed (missing: $(missing_programs | xargs)); run \`$0 install\`"
  [ "$(id -u)" = 0 ] || fail "only root can start a Slurm cluster"
  export PATH=$PATH:/usr/sbin:/sbin
  prepare_directory
  trap 'take_down >/dev/null 2>&1' EXIT # a cluster that came up half is taken down
  choose_place
  write_conf
  export SLURM_CONF=$dir/etc/slurm.conf
  start_munged
  spawn slurmctld slurmctld -D -f "$SLURM_CONF"
  wait_until 120 controller_answers || fail "slurmctld does not answer: $(log_end slurmctld)"
  local k
  for ((k = 1; k <= nodes; k++)); do start_node "node$k"; done
  wait_until 120 all_idle || fail "the nodes do not come up: $(sinfo -h -N -o '%N %t' -p main | xargs) $(log_end node1)"
  trap - EXIT
  [ -z "$owner" ] || outlive_nobody
  echo "$nodes nodes are up ($mode); . $dir/env"
}

outlive_nobody() { # a test session that is killed leaves no cluster behind
  # shellcheck disable=SC2016
  spawn guard bash -c 'tail --pid="$1" -f /dev/null; exec bash "$2" down --dir "$3"' \
    guard "$owner" "$here/test-cluster.sh" "$dir"
}

dismiss_guard() { # unless it is the guard that calls
  local guard
  if guard=$(pid_of guard) && [ "$guard" != $$ ]; then
    # shellcheck disable=SC2046
    kill $(descendants "$guard") "$guard" 2>/dev/null || true
  fi
}

prepare_directory() {
  [ ! -e "$dir/place" ] || fail "there is a cluster in $dir already; take it down first or use another --dir"
  mkdir -p "$dir"
  [ -z "$(ls -A "$dir")" ] || fail "--dir is removed by \`down\` and must be empty now: $dir"
  dir=$(cd "$dir" && pwd)
  [[ $dir != *[[:space:],]* ]] || fail "--dir may hold neither spaces nor commas (slurm.conf cannot): $dir"
  [ ${#dir} -le 80 ] || fail "--dir is too long for a socket's name (${#dir} characters, at most 80): $dir"
}

start_munged() {
  local socket=$dir/run/munge.socket
  spawn munged munged --foreground --force --key-file="$dir/etc/munge.key" --socket="$socket" --num-threads=4 \
    --pid-file="$dir/run/munged.own" --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed"
  wait_until 60 munge --no-input --socket="$socket" || fail "munged does not answer: $(log_end munged)"
}

controller_answers() {
  scontrol ping | grep -q 'is UP'
}

all_idle() {
  [ "$(sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$nodes" ]
}

log_end() { # DAEMON: the last thing it said
  cat "$dir/log/$1.out" "$dir/log/$1.log" 2>/dev/null | grep -iE 'error|fatal|cannot' | tail -n 1
}

take_down() {
  [ -e "$dir/place" ] || {
    echo "no cluster in $dir"
    return 0
  }
  dir=$(cd "$dir" && pwd)
  # shellcheck source=/dev/null
  . "$dir/place"
  local k
  dismiss_guard
  stop slurmctld
  for ((k = 1; k <= nodes; k++)); do cut_power "node$k"; done
  stop munged
  remove_network
  rm -rf "$dir"
  echo "the cluster is down"
}
