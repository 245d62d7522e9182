#!/usr/bin/env bash
# Trains on a Cloud TPU, from the request for machines to their deletion. docs/pods.md explains it.
set -euo pipefail

{ # read to the end before anything runs: the file may change in the days that `keep` takes

usage() {
  cat <<'END'
Usage: launch/tpu.sh ACTION --name=NAME --zone=ZONE --project=PROJECT --type=TYPE [FLAGS]
           [-- FLAGS OF nfnets_augmult.train]

Actions:
  keep     does all of the following: requests machines, installs, trains; when machines are taken
           away, requests others and goes on; when the run has finished or diverged, or fails three
           times in a row, deletes the machines. To be left running in a tmux, say; it may itself be
           stopped and started again.
  create   requests machines (a queued resource of Cloud TPU).
  setup    waits for the machines, copies this checkout to all of them and installs it there.
  train    starts training on all of them, detached from this terminal.
  status   what Cloud TPU says of the machines, and each machine of the training.
  logs     the last 20 lines of output of each machine.
  stop     stops the training, which saves first; the machines stay, and cost.
  delete   deletes the machines, whatever they do.

Flags:
  --name          of the queued resource, and of the TPU VMs
  --zone          such as us-east5-b; which types a zone has: gcloud compute tpus
                  accelerator-types list --zone=ZONE
  --project       of Google Cloud
  --type          v2-N, v3-N, v4-N, v5p-N, where N counts cores, two per chip, or
                  v5litepod-N, v6e-N, where N counts chips
  --version       runtime version of the TPU VMs; by default the one that belongs to the type
  --spot          cheap machines that may be taken away at any time
  --slices        number of slices of that type, for multislice (untested); by default 1
  --create_flags  more flags for 'queued-resources create', such as '--network=N --reserved'
  --ssh_flags     more flags for ssh and scp, such as --tunnel-through-iap or --internal-ip
  --poll_seconds  between two looks at the machines; by default 30
  --dry_run       prints the commands, and runs none

'keep' and 'train' need --config=... and --workdir=... after the --. The work directory must outlive
the machines: gs://BUCKET/RUN, or the absolute path of a file system that all of them mount.
END
}

die() {
  echo "error: $*" >&2
  exit 1
}

say() { echo "$(date '+%F %T') $*"; }

# --- What was asked for ---------------------------------------------------------------------------

[ $# -gt 0 ] || {
  usage >&2
  exit 1
}
case " $* " in *' --help '* | *' -h '*)
  usage
  exit
  ;;
esac
action="$1"
shift
case "$action" in
  keep | create | setup | train | status | logs | stop | delete) ;;
  *) die "no action $action: say keep, create, setup, train, status, logs, stop or delete" ;;
esac

name='' zone='' project='' type='' version='' slices=1 poll_seconds=30 spot='' dry_run=''
create_flags=() ssh_flags=() train_flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --version=*) version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --poll_seconds=*) poll_seconds="${1#*=}" ;;
    --create_flags=*) read -r -a create_flags <<<"${1#*=}" ;;
    --ssh_flags=*) read -r -a ssh_flags <<<"${1#*=}" ;;
    --spot) spot=1 ;;
    --dry_run) dry_run=1 ;;
    --)
      shift
      train_flags=("$@")
      break
      ;;
    *) die "unknown flag $1; flags are written --name=value, those of the training after --" ;;
  esac
  shift
done

[[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  die "--name=$name must be lower-case letters, digits and -, with a letter first"
[ -n "$zone" ] || die 'say --zone=..., such as us-east5-b'
[ -n "$project" ] || die 'say --project=..., the id of your Google Cloud project'
[ -n "$type" ] || die 'say --type=..., such as v6e-32 or v5p-64'
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || die "--slices=$slices must be a whole number from 1"
[[ "$poll_seconds" =~ ^[0-9]+([.][0-9]+)?$ ]] || die "--poll_seconds=$poll_seconds must be a number"

# chips, hosts: of one slice. devices: of one slice, as JAX counts them.
number="${type##*-}"
[[ "$number" =~ ^[1-9][0-9]*$ ]] || die "--type=$type must end with a number, as v6e-32"
case "$type" in
  v2-* | v3-* | v4-* | v5p-*)
    [ $((number % 8)) = 0 ] || die "--type=$type: the number counts cores, 8 on each host"
    chips=$((number / 2)) hosts=$((number / 8)) devices=$chips counts=cores
    ;;
  v5litepod-* | v6e-*)
    chips=$number hosts=1 devices=$chips counts=chips
    case "$number" in
      1 | 4 | 8) ;;
      16 | 32 | 64 | 128 | 256) hosts=$((chips / 4)) ;;
      *) die "--type=$type: the number counts chips: 1, 4, 8, 16, 32, 64, 128 or 256" ;;
    esac
    ;;
  v5e-*) die "--type=$type: Google Cloud calls it v5litepod-$number" ;;
  *) die "--type=$type is none of v2-N, v3-N, v4-N, v5p-N, v5litepod-N, v6e-N" ;;
esac
case "$type" in
  v2-* | v3-*) devices=$number runtime=tpu-ubuntu2204-base ;;
  v4-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
esac
workers=$((hosts * slices))
size="$type ($number $counts): $((chips * slices)) chips, $workers hosts"
[ "$workers" -gt 1 ] || size="${size%s}"
size="$size, $((devices * slices)) JAX devices"

root="$(cd "$(dirname "$0")/.." && pwd)"
config='' workdir=''
case "$action" in keep | train)
  for flag in ${train_flags[@]+"${train_flags[@]}"}; do
    case "$flag" in
      --config=*) config="${flag#*=}" ;;
      --workdir=*) workdir="${flag#*=}" ;;
      --*) ;;
      *) die "after --, $flag is no flag; flags of the training are written --name=value" ;;
    esac
  done
  [ -n "$config" ] || die 'say which config to train, after --, as in -- --config=experiments/nfnet_f5_sam.py'
  case "$workdir" in
    gs://*/* | /*) ;;
    '') die 'say where the run is kept, after --, as in -- --workdir=gs://BUCKET/RUN' ;;
    *) die "--workdir=$workdir would be deleted with the machines: say gs://BUCKET/RUN, or the absolute path of a file system that they all mount" ;;
  esac
  ;;
esac
case "$action" in keep | setup)
  git -C "$root" rev-parse --verify -q HEAD >/dev/null ||
    die "$root is no checkout of git, which says what to copy to the machines"
  ;;
esac
if [ "$action" = keep ]; then
  git -C "$root" ls-files --error-unmatch "${config%%:*}" >/dev/null 2>&1 ||
    die "--config=$config is not known to git, and would not be copied to the machines: git add it, and give its path from $root"
fi
[ -n "$dry_run" ] || command -v gcloud >/dev/null ||
  die 'gcloud is not installed: https://cloud.google.com/sdk/docs/install'

# --- Commands -------------------------------------------------------------------------------------

files="$(mktemp -d)"
trap 'rm -rf "$files"' EXIT
archive=''
queue=(gcloud compute tpus queued-resources)
place=("--zone=$zone" "--project=$project")
everywhere=(--node=all --worker=all ${ssh_flags[@]+"${ssh_flags[@]}"} --quiet "${place[@]}")

# Runs a command, or prints it so that a shell reads the same one.
call() {
  if [ -z "$dry_run" ]; then
    "$@"
    return
  fi
  printf '%q' "$1"
  shift
  [ $# = 0 ] || printf ' %q' "$@"
  echo
}

pause() { [ -n "$dry_run" ] || sleep "$poll_seconds"; }

request() {
  local nodes=("--node-id=$name")
  [ "$slices" = 1 ] || nodes=("--node-count=$slices" "--node-prefix=$name")
  say "requesting $size: $((chips * slices)) chip hours per hour" >&2
  call "${queue[@]}" create "$name" "${nodes[@]}" "${place[@]}" "--accelerator-type=$type" \
    "--runtime-version=${version:-$runtime}" ${spot:+--spot} \
    ${create_flags[@]+"${create_flags[@]}"}
}

# Sets machines to: none, waiting, leaving, gone, active or unknown; and why to what was heard.
look() {
  local node
  call "${queue[@]}" describe "$name" "${place[@]}" '--format=value(state.state)' \
    >"$files/state" 2>"$files/errors" || {
    why="$(cat "$files/errors")"
    case "$why" in *NOT_FOUND*) machines=none ;; *) machines=unknown ;; esac
    return 0
  }
  why="$(cat "$files/state")"
  if [ -n "$dry_run" ]; then
    echo "$why"
    why=ACTIVE
  fi
  case "$why" in
    SUSPENDED | FAILED) machines=gone ;;
    SUSPENDING | DELETING) machines=leaving ;;
    ACTIVE) machines=active ;;
    *) machines=waiting ;; # CREATING, ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING
  esac
  [ "$machines" = active ] || return 0
  # One slice may be taken away while the queued resource is still called active.
  call gcloud compute tpus tpu-vm list "${place[@]}" "--filter=name~/$name(-[0-9]+)?\$" \
    '--format=value(state)' >"$files/state" || return 0
  if [ -n "$dry_run" ]; then
    cat "$files/state"
    return 0
  fi
  while read -r node; do
    case "$node" in PREEMPTED | TERMINATED | STOPPING | STOPPED | DELETING)
      machines=gone why="a TPU VM is $node"
      ;;
    esac
  done <"$files/state"
}

# Runs a command on all workers, and returns whether all have answered; the answers are in a file.
# gcloud goes on without workers that it cannot reach, and may call that a success.
ask() {
  call "${queue[@]}" ssh "$name" "${everywhere[@]}" "--command=$1" >"$files/answers" 2>&1 \
    </dev/null || true
  [ -z "$dry_run" ] || cat "$files/answers"
  [ -n "$dry_run" ] || [ "$(count .)" = "$workers" ]
}

# The number of workers whose state matches.
count() { grep -cE "^== [^ ]+: $1" "$files/answers" || true; }

worker() {
  local arguments
  printf -v arguments ' %q' "$@"
  echo "bash nfnets_augmult/launch/tpu_worker.sh$arguments"
}

# Copies a file to all hosts, in up to three tries.
copy() {
  local try
  for try in 1 2 3; do
    ! call "${queue[@]}" scp "$1" "$name:$2" "${everywhere[@]}" || return 0
    [ "$try" = 3 ] || pause
  done
  return 1
}

# Asks up to three times, and shows what was answered if not all workers end in the wanted state.
tell() {
  local wanted="$1" try
  for try in 1 2 3; do
    if ask "$2" && { [ -n "$dry_run" ] || [ "$(count "$wanted")" = "$workers" ]; }; then
      return
    fi
    [ "$try" = 3 ] || pause
  done
  cat "$files/answers" >&2
  return 1
}

# The tree of the files that git knows, as they are. In an index of its own, since git locks that of
# the checkout, in which another start of this script, or somebody, may be at work.
changed_tree() {
  local index
  index="$(git -C "$root" rev-parse --path-format=absolute --git-path index)" &&
    cp "$index" "$files/index" &&
    GIT_INDEX_FILE="$files/index" git -C "$root" add --update &&
    GIT_INDEX_FILE="$files/index" git -C "$root" write-tree
}

# Packs the last commit, with the changes since then to files that git knows. Once for each start of
# this script: machines that replace others train with the same code.
pack() {
  local commit
  commit="$(git -C "$root" rev-parse HEAD)"
  say "the code is that of commit $commit" >&2
  if ! git -C "$root" diff --quiet HEAD --; then
    say 'with uncommitted changes' >&2
    [ -n "$dry_run" ] || commit="$(changed_tree)"
  fi
  archive="$files/$commit.tar.gz"
  [ -z "$dry_run" ] || archive="${TMPDIR:-/tmp}/$commit.tar.gz"
  call git -C "$root" archive --format=tar.gz "--output=$archive" "$commit"
}

set_up() {
  local code=nfnets_augmult file
  [ -n "$archive" ] || pack
  file="$(basename "$archive")" # named by its commit, so that no host unpacks another one
  say 'installing' >&2
  copy "$archive" "$file" &&
    tell '(ready|running|ended)' "mkdir -p $code && find $code -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} + && tar -xzf $file -C $code && $(worker setup)"
}

start() {
  say 'starting the training' >&2
  tell '(running|ended)' "$(worker start --multi_host "${train_flags[@]}")"
}

# Deletes the machines, until they are gone: they cost as long as they are there.
remove() {
  local try
  for try in 1 2 3 4 5 6 7 8 9 10; do
    call "${queue[@]}" delete "$name" "${place[@]}" --force --quiet || true
    [ -z "$dry_run" ] || return 0
    look
    while [ "$machines" = leaving ]; do
      pause
      look
    done
    [ "$machines" != none ] || return 0
    pause
  done
  die "$name could not be deleted, and may still cost: $why"
}

# --- keep -----------------------------------------------------------------------------------------

most_failures=3    # of the training, in a row
most_refusals=3    # of a request for machines; more once there were machines
long_enough=1200   # seconds of training after which a failure is no longer one in a row
most_silent=10     # looks at which not all hosts answer, after which the machines are replaced
most_stragglers=10 # looks after which the training is stopped on hosts that outlive that of another

show_logs() {
  ask "$(worker logs)" || say "only $(count .) of $workers hosts answer"
  [ -n "$dry_run" ] || grep -v '^==' "$files/answers" || true
}

give_up() {
  show_logs
  say 'deleting the machines'
  remove
  die "$1"
}

fail() {
  look
  [ "$machines" = active ] || return 0 # they were taken away, which explains it
  failures=$((failures + 1))
  say "$1 ($failures in a row)"
  [ "$failures" -lt "$most_failures" ] ||
    give_up "$1, $failures times in a row; the output of the machines above says why"
}

refuse() {
  refusals=$((refusals + 1))
  if [ "$refusals" -ge "$most_refusals" ]; then
    [ "$machines" = none ] || remove
    die "the request for machines was refused $refusals times; the messages above say why"
  fi
}

keep() {
  local failures=0 refusals=0 unknown=0 stragglers=0 silent=0 before='' requested='' finished=''
  local started=$SECONDS
  exec 3>&2 # for the trap, which may come while the output goes into a file
  trap 'say "no longer watched. The machines and the training go on, and cost: keep watches them again, delete ends them" >&3; exit 130' INT TERM
  pack
  until [ -n "$finished" ]; do
    look
    [ "$machines" = "$before" ] || say "machines: $machines${why:+ ($why)}"
    [ -n "$before" ] || [ "$machines" != unknown ] || die "gcloud: $why"
    before="$machines"
    case "$machines" in
      none)
        request || refuse
        requested=1 failures=0 silent=0 stragglers=0
        ;;
      gone)
        if [ -n "$requested" ]; then # they never came
          call "${queue[@]}" describe "$name" "${place[@]}" '--format=yaml(state)' || true
          refuse
        fi
        remove
        ;;
      unknown)
        unknown=$((unknown + 1))
        [ "$unknown" -lt 100 ] || die "gcloud has failed $unknown times: $why"
        ;;
      active)
        requested='' unknown=0 refusals=0 most_refusals=100
        watch
        ;;
    esac
    [ -n "$finished" ] || pause
  done
}

# Looks at the hosts of machines that are there, and does what is next.
watch() {
  local running ended
  if ! ask "$(worker status)"; then
    if grep -q 'tpu_worker.sh: No such file' "$files/answers"; then # new machines
      begin
      return
    fi
    silent=$((silent + 1))
    if [ "$silent" -ge "$most_silent" ]; then
      say "only $(count .) of $workers hosts answer: replacing the machines"
      remove
    fi
    return
  fi
  silent=0 running="$(count running)" ended="$(count ended)"
  if [ $((SECONDS - started)) -ge "$long_enough" ]; then
    failures=0
  fi
  if [ "$running" = "$workers" ]; then
    stragglers=0
  elif [ "$(count bare)" -gt 0 ]; then
    begin
  elif [ "$running" -gt 0 ] && [ "$ended" -gt 0 ]; then
    stragglers=$((stragglers + 1))
    [ "$stragglers" -lt "$most_stragglers" ] || tell ended "$(worker stop 60)" || true
  elif [ "$(count '.* finished$')" -gt 0 ]; then
    finished=1
  elif [ "$(count 'ended 76 ')" -gt 0 ]; then
    give_up "a later start has taken $workdir over, and would be stopped by another start of this one"
  elif [ "$(count '.* diverged$')" -gt 0 ]; then
    give_up "the run has diverged, which another start would repeat; $workdir/status.json has the losses"
  else
    [ "$ended" = 0 ] || fail 'the training ended before the run was finished'
    begin started
  fi
}

# Installs, unless that is done, and starts the training.
begin() {
  stragglers=0
  [ $# -gt 0 ] || set_up || {
    fail 'the machines could not be set up'
    return 0
  }
  started=$SECONDS
  start || fail 'the training could not be started'
}

# --- Actions --------------------------------------------------------------------------------------

[ -z "$dry_run" ] || [ "$action" = delete ] || echo "# $size"
case "$action" in
  create)
    request
    ;;
  setup)
    look
    while [ "$machines" = waiting ]; do
      say "waiting for the machines ($why)"
      pause
      look
    done
    [ "$machines" = active ] || die "there are no machines $name: $machines ($why)"
    set_up || die 'the machines could not all be set up'
    ;;
  train) start || die "the training was not started on all machines; is it set up there?" ;;
  status)
    look
    say "$name: $machines${why:+ ($why)}"
    if [ "$machines" = active ]; then
      ask "$(worker status)" || say "only $(count .) of $workers hosts answer"
      [ -n "$dry_run" ] || grep '^==' "$files/answers" || cat "$files/answers"
    fi
    ;;
  logs) show_logs ;;
  stop)
    tell '(ended|ready)' "$(worker stop 600)" || die 'the training was not stopped on all machines'
    grep '^==' "$files/answers" || true
    ;;
  delete) remove ;;
  keep)
    if [ -n "$dry_run" ]; then
      request
      look
      set_up
      start
      ask "$(worker status)"
    else
      keep
    fi
    show_logs
    say "the run in $workdir is finished; deleting the machines" >&2
    remove
    ;;
esac
exit
}
