#!/usr/bin/env bash
# Starts a SLURM cluster of this machine alone, in a folder, as root; ends when it is told to.
#
# Usage: slurm_cluster.sh FOLDER      SLURM_CONF=FOLDER/slurm.conf is then for sbatch and the others
#
# Needs Debian's packages: apt-get install slurmctld slurmd slurm-client munge
set -euo pipefail
folder="$1"
host="$(hostname -s)"
read -r controller_port node_port < <(python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
for free in sockets:
  free.bind(("", 0))
print(*(free.getsockname()[1] for free in sockets))')
mkdir -p "$folder/state" "$folder/spool" /run/munge
cat >"$folder/slurm.conf" <<END
ClusterName=alone
SlurmctldHost=$host
SlurmctldPort=$controller_port
SlurmdPort=$node_port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MpiDefault=none
ReturnToService=2
KillWait=5
MinJobAge=300
NodeName=$host CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
END
export SLURM_CONF="$folder/slurm.conf"
chown munge: /run/munge
munge -n >/dev/null 2>&1 || runuser -u munge -- munged --force
slurmctld -D -f "$SLURM_CONF" >"$folder/slurmctld.out" 2>&1 &
controller=$!
slurmd -D -f "$SLURM_CONF" >"$folder/slurmd.out" 2>&1 &
node=$!
trap 'kill "$node" "$controller" 2>/dev/null; sleep 3; kill -KILL "$node" "$controller" 2>/dev/null' EXIT
trap 'exit 0' TERM INT
wait
