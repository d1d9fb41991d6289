# shellcheck shell=bash disable=SC2154 # dir, mode, ...: set by test-cluster.sh
# slurm.conf: everything under $dir, nothing of the machine used, timers short.

write_conf() {
  mkdir -p "$dir"/{etc,run,log,state,spool}
  chmod 755 "$dir" "$dir"/{etc,run,log,state,spool}
  (umask 077 && head -c 1024 /dev/urandom >"$dir/etc/munge.key")
  { controller_conf && timers_conf && nodes_conf && partitions_conf; } >"$dir/etc/slurm.conf"
  gres_conf >"$dir/etc/gres.conf"
  cgroup_conf >"$dir/etc/cgroup.conf"
  name_service_conf
  echo "export SLURM_CONF='$dir/etc/slurm.conf'" >"$dir/env"
}

controller_conf() {
  # cred_expire is also the hold of a requeued job: 5 s is the least Slurm takes seriously, the default is 120 s
  cat <<END
ClusterName=hierlm$number
SlurmctldHost=$(hostname -s)($controller_address)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.own
SlurmdPidFile=$dir/run/%n.own
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
ReturnToService=2
FirstJobId=$((number * 1000 + 1))
END
}

timers_conf() {
  # a step's daemon that was cut off tries for a minute to report its end: taken for unkillable before, it drains its node
  cat <<END
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,bf_resolution=1,batch_sched_delay=0
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
MinJobAge=3600
InactiveLimit=0
UnkillableStepTimeout=120
BatchStartTimeout=20
END
}

nodes_conf() {
  local k where
  for ((k = 1; k <= nodes; k++)); do
    if [ "$mode" = namespaces ]; then
      where="NodeHostname=node$k NodeAddr=$subnet.$k Port=$port"
    else
      where="NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((port + k))"
    fi
    echo "NodeName=node$k $where CPUs=$cpus RealMemory=64000 Gres=gpu:$gpus State=UNKNOWN"
  done
}

partitions_conf() {
  local common="Nodes=ALL State=UP MaxTime=INFINITE DefaultTime=60"
  cat <<END
PartitionName=main $common Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low $common PriorityTier=1 PreemptMode=REQUEUE
PartitionName=grace $common PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high $common PriorityTier=10 PreemptMode=OFF
END
}

gres_conf() { # GPUs that are clones of /dev/null: counted and handed out like real ones
  local g
  [ "$gpus" -gt 0 ] || return 0
  for ((g = 0; g < gpus; g++)); do
    mknod -m 666 "$dir/spool/gpu$g" c 1 3 2>/dev/null || : >"$dir/spool/gpu$g"
  done
  echo "NodeName=node[1-$nodes] Name=gpu File=$dir/spool/gpu[0-$((gpus - 1))]"
}

cgroup_conf() { # from 23.11 on slurmd insists on a cgroup it may write to, unless told otherwise
  local version
  version=$(slurmd -V | tr -dc '0-9.' | cut -d. -f1,2 | tr -d .)
  [ "$version" -lt 2311 ] || echo CgroupPlugin=disabled
}

name_service_conf() { # bind-mounted over the nodes' own: names of the nodes resolve, and nothing waits for a DNS server
  local k
  {
    echo "127.0.0.1 localhost"
    echo "$controller_address $(hostname -s)"
    for ((k = 1; k <= nodes; k++)); do echo "${subnet:-127.0.0}.$k node$k"; done
  } >"$dir/etc/hosts"
  echo "hosts: files" >"$dir/etc/nsswitch.conf"
  : >"$dir/etc/resolv.conf"
}
