#!/usr/bin/env bash
# The shipped bundle, from text to bundles/en-demo: `make bundle BOOKS=folder [REAL=folder]`.
#
#   BOOKS  plain text files
#   REAL   optional real speech: train.jsonl and dev.jsonl, as `vitconformer prepare` writes them
#
# In the environment: DATA and OUT, folders for what is made and for the bundle; JOBS; and for a
# rehearsal HOURS="0.02 0.02" SET="optim.steps=4 optim.warmup_steps=1".
#
# Every command goes on where it was interrupted, so the script can be run again at any time.  Two
# cores need about three hours: half an hour of synthesis, the rest training.
set -euo pipefail
books=$1 real=${2:-} data=${DATA:-data/en-demo} out=${OUT:-bundles/en-demo} jobs=${JOBS:-2}
read -r plain varied <<<"${HOURS:-18.6 12.3}"
step() { printf '\n== %s\n' "$*" >&2; "$@"; }

# Voices as they are, and all of them again as many speakers: vocal tracts scaled by up to 17 %.
step vitconformer synth --text "$books" --split train --hours "$plain" --jobs "$jobs" \
    --voices flite,festival,espeak-ng --out "$data/plain"
step vitconformer synth --text "$books" --split train --hours "$varied" --jobs "$jobs" \
    --tract 0.16 --seed 1 --out "$data/varied"
step vitconformer synth --text "$books" --split dev --utterances 300 --out "$data/dev"

[ -e "$data/tokenizer/tokenizer.model" ] ||
    step vitconformer tokenizer --manifest "$data/plain/manifest.jsonl" --out "$data/tokenizer"
train=() dev=("$data/dev/manifest.jsonl") devs=()
features() { # MANIFEST NAME
    [ -e "$data/store/$2" ] ||
        step vitconformer features --manifest "$1" --out "$data/store/$2" --jobs "$jobs"
}
for name in plain varied; do
    features "$data/$name/manifest.jsonl" "$name"
    train+=("$data/store/$name")
done
features "$data/dev/manifest.jsonl" dev
devs+=("$data/store/dev")
if [ -n "$real" ]; then
    features "$real/train.jsonl" real
    features "$real/dev.jsonl" real-dev
    train+=("$data/store/real:6")  # a tenth of what is heard
    dev+=("$real/dev.jsonl")
    devs+=("$data/store/real-dev")
fi

# Two processes of one thread use two cores better than one process of two threads.
OMP_NUM_THREADS=1 step torchrun --standalone --nproc-per-node 2 --no-python \
    vitconformer train --recipe demo --threads 1 --out "$data/run" --tokenizer "$data/tokenizer" \
    --train "${train[@]}" --dev "${devs[@]}" ${SET:+--set $SET}

last=$(ls "$data"/run/step-*.safetensors | tail -1)
step vitconformer export --checkpoint "$last" --tokenizer "$data/tokenizer" --out "$data/bundle"
step vitconformer confidence --bundle "$data/bundle" --manifest "${dev[@]}" --limit 100 \
    --out "$data/confidence.json"
step vitconformer lm --text "$books" --out "$data/lm.arpa" \
    ${real:+--manifest "$real/train.jsonl" --exclude "$real/dev.jsonl"}
step vitconformer tune --bundle "$data/bundle" --lm "$data/lm.arpa" --manifest "${dev[@]}" \
    --limit 100 --out "$data/decoding.json"
step vitconformer export --checkpoint "$last" --tokenizer "$data/tokenizer" --out "$out" \
    --confidence "$data/confidence.json" --lm "$data/lm.arpa" --decoding "$data/decoding.json" \
    --checkpoint-out "$out.safetensors"
mkdir -p "$out.tokenizer" && cp "$data"/tokenizer/{tokenizer.model,tokens.txt} "$out.tokenizer/"
