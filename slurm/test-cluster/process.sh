# shellcheck shell=bash disable=SC2154 # dir, mode, ...: set by test-cluster.sh
# Which process is ours: a pid file holds the pid and its start time, so that a recycled pid is never taken for it.

start_time() { # PID -> clock ticks since boot; fails when it is gone or only a zombie
  local stat rest
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -r -a rest <<<"${stat##*) }" # behind the command name, which may hold spaces: state first, start time 20th
  [ "${rest[0]}" != Z ] || return 1
  echo "${rest[19]}"
}

remember() { # NAME PID
  echo "$2 $(start_time "$2")" >"$dir/run/$1.pid"
}

pid_of() { # NAME -> its pid; fails when it does not run
  local pid started
  read -r pid started 2>/dev/null <"$dir/run/$1.pid" || return 1
  [ "$(start_time "$pid")" = "$started" ] || return 1
  echo "$pid"
}

spawn() { # NAME COMMAND...: detached, its output in log/NAME.out
  local name=$1
  shift
  setsid "$@" </dev/null >>"$dir/log/$name.out" 2>&1 &
  remember "$name" $!
}

descendants() { # PID...: children first
  local pid child children
  for pid in "$@"; do
    read -r -d '' -a children < <(cat "/proc/$pid/task/"*/children 2>/dev/null) || true
    for child in "${children[@]}"; do
      descendants "$child"
      echo "$child"
    done
  done
}

stop() { # NAME: TERM, after 5 s KILL
  local pid
  pid=$(pid_of "$1") || return 0
  kill -TERM "$pid" 2>/dev/null || true
  wait_until 5 has_gone "$1" || kill -KILL "$pid" 2>/dev/null || true
  wait_until 60 has_gone "$1" || echo "test-cluster: $1 (pid $pid) does not end" >&2
}

has_gone() { # NAME
  ! pid_of "$1" >/dev/null
}

wait_until() { # SECONDS COMMAND...: polls; 1 when time is up
  local deadline=$((SECONDS + $1 + 1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.05
  done
}
