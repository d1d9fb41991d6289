# shellcheck shell=bash disable=SC2154 # dir, mode, ...: set by test-cluster.sh
# One node: a slurmd, in namespaces of its own (host name, address, process table, mounts) where the machine allows it.

NODE_ACTIONS="start kill fail term cut heal status"

act_on_node() { # ACTION nodeK
  [ -s "$dir/place" ] || fail "no cluster in $dir"
  # shellcheck source=/dev/null
  . "$dir/place"
  export SLURM_CONF=$dir/etc/slurm.conf
  [[ $2 =~ ^node[0-9]+$ && ${2#node} -ge 1 && ${2#node} -le $nodes ]] || fail "no node $2, there are node1 to node$nodes"
  case $1 in
    start) start_node "$2" ;;
    kill) cut_power "$2" ;;
    fail) # the same, and the controller hears of it now instead of after SlurmdTimeout
      cut_power "$2"
      scontrol update NodeName="$2" State=DOWN Reason="power cut"
      ;;
    term) kill_slurmd "$2" ;;
    cut | heal) switch_cable "$1" "$2" ;;
    status) node_status "$2" ;;
    *) fail "unknown node action $1, allowed: $NODE_ACTIONS" ;;
  esac
}

start_node() { # nodeK: boots it, or restarts a dead slurmd on it
  local name=$1
  [ -z "$(slurmd_pid "$name")" ] || return 0
  mkdir -p "$dir/spool/$name"
  if [ "$mode" = plain ]; then
    spawn "$name" env HIERLM_TEST_NODE="$dir:$name" slurmd -D -N "$name" -f "$dir/etc/slurm.conf"
  elif pid_of "$name" >/dev/null; then
    setsid nsenter --target "$(node_init "$name")" --all slurmd -D -N "$name" -f "$dir/etc/slurm.conf" \
      </dev/null >>"$dir/log/$name.out" 2>&1 &
  else
    spawn "$name" unshare --fork --kill-child --pid --mount --uts --net --mount-proc \
      bash "$here/test-cluster/node-init.sh" "$name" "$subnet.${name#node}" "$dir"
    wait_until 60 node_init "$name" || fail "$name does not start, see $dir/log/$name.out"
    plug_cable "$name" "$(node_init "$name")"
  fi
}

cut_power() { # nodeK: slurmd, its step daemons and all tasks end at once
  local name=$1 pid
  pid=$(pid_of "$name") || pid=
  if [ "$mode" = namespaces ]; then
    [ -z "$pid" ] || kill -KILL "$(node_init "$name")" 2>/dev/null || true
  else
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    kill_steps "$name"
  fi
  wait_until 60 has_gone "$name" || fail "$name does not end"
  rm -f "$dir/run/$name.pid"
}

kill_slurmd() { # nodeK: its jobs go on without it
  local pid
  pid=$(slurmd_pid "$1")
  [ -z "$pid" ] || kill -KILL "$pid"
}

switch_cable() { # cut|heal nodeK
  [ "$mode" = namespaces ] || fail "nodes have cables only in --mode namespaces"
  local -A state=([cut]=down [heal]=up)
  ip link set "$bridge-${2#node}" "${state[$1]}"
}

node_status() {
  if pid_of "$1" >/dev/null; then
    echo "$1 is up, slurmd $([ -n "$(slurmd_pid "$1")" ] && echo runs || echo is dead)"
  else
    echo "$1 is down"
  fi
}

node_init() { # nodeK -> pid (of this machine) of the node's process 1
  local pid child
  pid=$(pid_of "$1") || return 1
  read -r child 2>/dev/null <"/proc/$pid/task/$pid/children" || [ -n "$child" ] || return 1
  echo "${child%% *}"
}

slurmd_pid() { # nodeK -> pid of its slurmd, empty when that is dead
  local pid
  if [ "$mode" = plain ]; then
    pid_of "$1" || true
    return 0
  fi
  pid_of "$1" >/dev/null || return 0
  for pid in $(descendants "$(node_init "$1")"); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = slurmd ] && start_time "$pid" >/dev/null; then
      echo "$pid"
      return 0
    fi
  done
}

kill_steps() { # nodeK, plain mode: step daemons leave slurmd's process tree but keep its environment
  local pid steps
  for _ in 1 2; do # a step may be starting while the first round kills
    steps=$(for pid in /proc/[0-9]*; do
      tr '\0' '\n' 2>/dev/null <"$pid/environ" | grep -qxF "HIERLM_TEST_NODE=$dir:$1" && echo "${pid#/proc/}"
    done) || true
    for pid in $steps; do
      # shellcheck disable=SC2046
      kill -KILL "$pid" $(descendants "$pid") 2>/dev/null || true
    done
  done
}
