# Shared by the kinds of scripts/soak: a tiny run on text of this repository, and how to start it.
#   $rounds      what the user asked for, or empty
#   $work        a temporary directory, removed at the end (kept after a failure)
#   $sepia       the program, absolute; SEPIA overrides it
#   tiny_config  writes $work/run.textproto with its data, in about a second
#   launch N ... mpirun with N ranks on this machine, however few processors it has
#   fail TEXT    ends the soak
sepia=$(realpath "${SEPIA:-build/bin/sepia}")
[ -x "$sepia" ] || { echo "soak: no $sepia; build first, or set SEPIA" >&2; exit 78; }
work=$(mktemp -d "${TMPDIR:-/tmp}/sepia-soak-XXXXXX")
export OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trap 'status=$?; if [ $status -eq 0 ]; then rm -rf "$work"; else echo "soak: see $work" >&2; fi' EXIT

fail() {
  echo "soak: FAILED: $*" >&2
  exit 1
}

tiny_config() {
  local text=$work/text.txt
  cat README.md docs/*.md >"$text"
  "$sepia" tokenizer train --vocab-size 320 --out "$work/tokenizer.json" "$text" >/dev/null 2>&1
  "$sepia" tokenize --tokenizer "$work/tokenizer.json" --append-eod --out "$work/data" "$text" \
    >/dev/null 2>&1
  cat >"$work/run.textproto" <<CONFIG
model {
  vocab_size: 384 hidden_size: 32 num_layers: 2 num_heads: 2 max_positions: 32
  attention { kind: SEP window: 6 num_initial: 2 separator_ids: [13, 46] full_layers: [0] }
}
data { train { prefix: "$work/data" } valid { prefix: "$work/data" } sequence_length: 32 }
batch { global: 4 micro: 1 }
optimizer { lr: 1e-2 min_lr: 1e-3 }
schedule { warmup_steps: 2 decay_steps: 400 total_steps: 400 }
checkpoint { every_steps: 20 keep_last: 3 }
eval { every_steps: 0 }
logging { every_steps: 100 peak_gflops: 100 tensorboard: false }
threads: 1
CONFIG
}

launch() {
  local ranks=$1
  shift
  mpirun --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n "$ranks" "$@"
}
