# shellcheck shell=bash
# The Slurm packages, without starting the system's own daemons.

missing_programs() {
  local program
  for program in munged munge slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$program"
  done
}

install_packages() {
  [ -n "$(missing_programs)" ] || return 0
  [ "$(id -u)" = 0 ] || fail "Slurm is not installed and only root can install it"
  command -v apt-get >/dev/null || fail "Slurm is not installed and there is no apt-get to install it with"
  local log policy=/usr/sbin/policy-rc.d
  log=$(mktemp)
  # maintainer scripts ask this file whether to start their services
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  echo "installing a Slurm for the tests (5 to 60 seconds)"
  if ! apt_get update >"$log" 2>&1 ||
    ! apt_get install --yes --no-install-recommends munge slurmctld slurmd slurm-client iproute2 >>"$log" 2>&1; then
    fail "apt-get cannot install Slurm: $(grep -E '^(E|Err):' "$log" | head -n 1) (whole output: $log)"
  fi
  rm -f "$log"
  [ -z "$(missing_programs)" ] || fail "the packages are installed, yet missing: $(missing_programs | xargs)"
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get --quiet -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1 "$@"
}
