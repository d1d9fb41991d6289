#!/usr/bin/env bash
# Process 1 of a node that has namespaces of its own. Arguments: node name, its address, the cluster's directory.
# SIGKILL to it is a power cut: everything on the node ends with it. It outlives slurmd, so that slurmd alone can die.
set -euo pipefail
name=$1 address=$2 dir=$3

hostname "$name"
for file in hosts nsswitch.conf resolv.conf; do
  [ ! -e "/etc/$file" ] || mount --bind "$dir/etc/$file" "/etc/$file"
done
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up
ip address add "$address/24" dev eth0
ip link set eth0 up
ip route add default via "${address%.*}.254"

slurmd -D -N "$name" -f "$dir/etc/slurm.conf" -b &
while :; do
  sleep 3600 &
  wait $! || true # collects orphans meanwhile: bash reaps whatever is re-parented to it
done
