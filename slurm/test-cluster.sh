#!/usr/bin/env bash
# A real, throw-away Slurm on one Debian or Ubuntu machine, for tests. Needs root, no systemd; leaves nothing behind.
#
#   test-cluster.sh install                                            the packages (apt-get), once
#   test-cluster.sh up   [--dir DIR] [--nodes N] [--cpus N] [--gpus N] [--mode namespaces|plain]
#                        [--owner PID]                                 goes down by itself when that process ends
#   test-cluster.sh down [--dir DIR]
#   test-cluster.sh node ACTION nodeK [--dir DIR]
#
# After `up`, `. DIR/env` points sbatch, squeue and the rest at the cluster. DIR is made by `up` and removed by `down`.
# Clusters with different DIRs live side by side. README.md beside this file tells more.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in process install conf network node daemons; do
  # shellcheck disable=SC1090
  . "$here/test-cluster/$part.sh"
done

fail() {
  echo "test-cluster: $*" >&2
  exit 1
}

usage() {
  sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# read by the parts
# shellcheck disable=SC2034
dir=${TMPDIR:-/tmp}/hierlm-slurm
# shellcheck disable=SC2034
nodes=2 cpus=4 gpus=4 mode='' owner=''

read_options() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dir | --nodes | --cpus | --gpus | --mode | --owner)
        [ $# -ge 2 ] || fail "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift 2
        ;;
      *) fail "unknown argument $1 (see --help)" ;;
    esac
  done
  case $mode in '' | namespaces | plain) ;; *) fail "--mode is namespaces or plain, given $mode" ;; esac
}

verb=${1:-}
[ $# -eq 0 ] || shift
case $verb in
  install)
    read_options "$@"
    install_packages
    ;;
  up)
    read_options "$@"
    bring_up
    ;;
  down)
    read_options "$@"
    take_down
    ;;
  node)
    [ $# -ge 2 ] || fail "usage: node ACTION nodeK, ACTION one of $NODE_ACTIONS"
    action=$1 node=$2
    shift 2
    read_options "$@"
    act_on_node "$action" "$node"
    ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
