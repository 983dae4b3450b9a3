#!/bin/sh
# Trains a small GPT-2 from nothing on the Jargon File, 1.3 MB of English prose: two ranks, ZeRO-2,
# bf16. Does all its set-up on a fresh Debian 12, and writes below build/ only.
# usage: examples/demo/run.sh [STEPS]
set -eu
cd "$(dirname "$0")/../.."
steps=${1:-1600}
demo=build/demo
mkdir -p $demo

.ci/install build
echo "building" >&2
{ cmake -S . -B build -G Ninja -DBUILD_TESTING=OFF && cmake --build build; } >$demo/build.log 2>&1 || {
    cat $demo/build.log >&2
    exit 1
}

# The text is in the public domain. Debian has it as a package, which is unpacked, not installed.
if [ ! -s $demo/text.txt ]; then
    echo "fetching the text" >&2
    .ci/install fetch jargon-text $demo
    dpkg-deb -x $demo/jargon-text_*.deb $demo/package
    gzip -dc $demo/package/usr/share/doc/jargon-text/jargon.txt.gz |
        LC_ALL=C.UTF-8 iconv -f utf-8 -t ascii//TRANSLIT | sed 's/^   //' | # paragraphs of prose only:
        awk 'BEGIN { RS = ""; ORS = "\n\n" } length > 100 && !/[|+_=-][|+_=]/' >$demo/text.new
    mv $demo/text.new $demo/text.txt
fi

build/bin/zds-run -n 2 build/bin/zds-train --config_name examples/demo/gpt2.json \
    --train_file $demo/text.txt --deepspeed examples/demo/ds_config.json \
    --output_dir $demo/model --overwrite_output_dir \
    --max_steps "$steps" --logging_steps 80 --generate 400

cat <<END

The model is in $demo/model. transformers loads it like any other:
    AutoModelForCausalLM.from_pretrained("$demo/model")
END
