#!/usr/bin/env bash
# The shipped bundle, from text to bundles/en-demo: `make bundle BOOKS=folder [REAL=folder]`.
#
#   BOOKS  plain text files
#   REAL   optional real speech: train.jsonl and dev.jsonl, as `vitconformer prepare` writes them
#
# In the environment: DATA and OUT, folders for what is made and for the bundle; JOBS; and for a
# rehearsal HOURS="0.02 0.02 0.01 0.02 0.01" SET="optim.steps=4 optim.warmup_steps=1".
#
# Every command goes on where it was interrupted, so the script can be run again at any time.  Two
# cores need about seven hours: one and a half of synthesis, the rest training.
set -euo pipefail
books=$1 real=${2:-} data=${DATA:-data/en-demo} out=${OUT:-bundles/en-demo} jobs=${JOBS:-2}
read -r plain varied neural varied2 neural2 <<<"${HOURS:-18.6 12.3 1.0 8.7 2.1}"
step() { printf '\n== %s\n' "$*" >&2; "$@"; }

# Voices as they are, and all of them again as many speakers: vocal tracts scaled by up to 17 %.
step vitconformer synth --text "$books" --split train --hours "$plain" --jobs "$jobs" \
    --voices flite,festival,espeak-ng --out "$data/plain"
step vitconformer synth --text "$books" --split train --hours "$varied" --jobs "$jobs" \
    --tract 0.16 --seed 1 --out "$data/varied"
step vitconformer synth --text "$books" --split train --hours "$neural" --jobs "$jobs" --shard 16 \
    --voices kokoro --tract 0.12 --seed 2 --out "$data/kokoro"
# More of both: other sentences, other speakers.
step vitconformer synth --text "$books" --split train --hours "$varied2" --jobs "$jobs" \
    --tract 0.16 --seed 22 --out "$data/varied2"
step vitconformer synth --text "$books" --split train --hours "$neural2" --jobs "$jobs" --shard 16 \
    --voices kokoro --tract 0.12 --seed 11 --out "$data/kokoro2"
step vitconformer synth --text "$books" --split dev --utterances 300 --out "$data/dev"

[ -e "$data/tokenizer/tokenizer.model" ] ||
    step vitconformer tokenizer --manifest "$data/plain/manifest.jsonl" --out "$data/tokenizer"
dev=("$data/dev/manifest.jsonl") devs=()
features() { # MANIFEST NAME
    [ -e "$data/store/$2" ] ||
        step vitconformer features --manifest "$1" --out "$data/store/$2" --jobs "$jobs"
}
for name in plain varied kokoro varied2 kokoro2; do features "$data/$name/manifest.jsonl" "$name"; done
features "$data/dev/manifest.jsonl" dev
devs+=("$data/store/dev")
if [ -n "$real" ]; then
    features "$real/train.jsonl" real
    features "$real/dev.jsonl" real-dev
    dev+=("$real/dev.jsonl")
    devs+=("$data/store/real-dev")
fi

# Two processes of one thread use two cores better than one process of two threads.
train() { # RECIPE RUN [FIELD=VALUE] -- STORES
    local recipe=$1 run=$2 set=()
    shift 2
    while [ "$1" != -- ]; do set+=("$1"); shift; done
    shift
    OMP_NUM_THREADS=1 step torchrun --standalone --nproc-per-node 2 --no-python \
        vitconformer train --recipe "$recipe" --threads 1 --out "$run" \
        --tokenizer "$data/tokenizer" --train "$@" --dev "${devs[@]}" \
        --set "${set[@]}" run.seed=1 ${SET:-}
    last=$(ls "$run"/step-*.safetensors | tail -1)
}
# Real speech is a tenth of what is heard, then an eighth, and a thirtieth in the end, when half an
# hour of it has been heard so often that it is known by heart; neural voices are a quarter.
train demo "$data/run" -- "$data"/store/{plain,varied} ${real:+"$data/store/real:6"}
train demo-natural "$data/run-natural" run.init="$last" -- \
    "$data/store/varied" "$data/store/kokoro:6" ${real:+"$data/store/real:4"}
train demo-natural "$data/run-more" run.init="$last" -- "$data"/store/varied{,2} \
    "$data"/store/kokoro{:2,2:2} ${real:+"$data/store/real:1.5"}

# The language model and its weights, then how sure words are, which depends on both.
step vitconformer lm --text "$books" --out "$data/lm.arpa" \
    --words /usr/share/dict/american-english \
    ${real:+--manifest "$real/train.jsonl" --exclude "$real/dev.jsonl"}
export_() { # OUT [OPTION]
    step vitconformer export --checkpoint "$last" --tokenizer "$data/tokenizer" \
        --lm "$data/lm.arpa" --out "$@"
}
export_ "$data/bundle"
step vitconformer tune --bundle "$data/bundle" --manifest "${dev[@]}" --limit 100 \
    --out "$data/decoding.json"
export_ "$data/bundle" --decoding "$data/decoding.json"
step vitconformer confidence --bundle "$data/bundle" --manifest "${dev[@]}" --limit 100 \
    --out "$data/confidence.json"
export_ "$out" --decoding "$data/decoding.json" --confidence "$data/confidence.json" \
    --checkpoint-out "$out.safetensors"
step vitconformer calibrate --bundle "$out" --manifest "${dev[@]}" --out "$data/int8" --targets dynamic \
    --bundle-out "$out"
mkdir -p "$out.tokenizer" && cp "$data"/tokenizer/{tokenizer.model,tokens.txt} "$out.tokenizer/"
