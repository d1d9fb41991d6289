# shellcheck shell=bash disable=SC2154 # dir, mode, ...: set by test-cluster.sh
# Where the cluster listens. Making the bridge claims its number: two clusters started at once get different ones.

choose_place() { # sets mode, number, port, controller_address, subnet, bridge
  [ -n "$mode" ] || mode=$(best_mode)
  if [ "$mode" = namespaces ]; then
    claim_bridge || fail "no free network 10.111.N.0/24 left for the nodes"
    controller_address=$subnet.254
    write_place
    ip address add "$controller_address/24" dev "$bridge"
    ip link set "$bridge" up
  else
    claim_port_block || fail "no block of $((nodes + 1)) free ports between 12000 and 19000"
    controller_address=127.0.0.1 subnet='' bridge=''
    write_place
  fi
}

write_place() { # for `down` and `node`
  declare -p mode number port controller_address subnet bridge nodes >"$dir/place"
}

best_mode() { # namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN
  if unshare --fork --pid --mount --uts --net --mount-proc true 2>/dev/null &&
    ip link add hlmprobe$$ type bridge 2>/dev/null && ip link delete hlmprobe$$; then
    echo namespaces
  else
    echo plain
  fi
}

claim_bridge() {
  for number in {1..250}; do
    bridge=hlm$number subnet=10.111.$number
    port=$((12000 + number * 10))
    is_free "$port" || continue
    ip link add "$bridge" type bridge 2>/dev/null && return 0
  done
  return 1
}

claim_port_block() { # the lock lasts until this script ends; by then the daemons hold the ports
  local p
  exec 9>"${TMPDIR:-/tmp}/hierlm-slurm.lock"
  flock 9
  for number in {1..250}; do
    port=$((12000 + number * 25))
    for ((p = port; p <= port + nodes; p++)); do is_free "$p" || continue 2; done
    return 0
  done
  return 1
}

is_free() { # PORT: nobody listens on this machine
  ! (: </dev/tcp/127.0.0.1/"$1") 2>/dev/null
}

plug_cable() { # nodeK INIT_PID: eth0 appears in the node; it goes with the node's last process
  local cable=$bridge-${1#node}
  ip link delete "$cable" 2>/dev/null || true
  ip link add "$cable" type veth peer name eth0 netns "$2"
  ip link set "$cable" master "$bridge" up
}

remove_network() {
  [ -z "$bridge" ] || ip link delete "$bridge" 2>/dev/null || true
}
