#!/bin/sh
# Serve the models that CAPTION_MODEL and EMBEDDING_MODELS name, set as for a processor, but for
# openai, which is another server; with a folder, all models in it:
# serve.sh /models/preview_repository
set -eu
if [ $# = 1 ]; then
    set -- "--model-repository=$1" --model-control-mode=none
else
    for model in $(echo "${CAPTION_MODEL:-gemma3},${EMBEDDING_MODELS:-clip}" | tr , ' '); do
        test "$model" != openai || continue
        test "$model" != florence2 || model=florence2base # its name in Triton
        set -- "$@" "--load-model=$model"
    done
    repository=/models/model_repository
    # A model tells its weights by its configuration, so those that the environment names go there.
    if env | grep -Eq '^[A-Z0-9_]+_(WEIGHTS|REVISION)=.'; then
        repository=$(mktemp -d)/model_repository
        cp -r /models/model_repository "$repository"
        ln -s /models/serving /models/trimming.py "${repository%/*}"
        for config in "$repository"/*/config.pbtxt; do
            folder=${config%/config.pbtxt}
            model=$(echo "${folder##*/}" | tr a-z A-Z)
            for name in weights revision; do
                setting=$(echo "$name" | tr a-z A-Z)
                eval "value=\${${model}_$setting:-\${MODELS_$setting:-}}"
                test -z "$value" || sed -i "/key: \"$name\"/s|string_value: \".*\"|string_value: \"$value\"|" "$config"
            done
        done
    fi
    set -- "--model-repository=$repository" --model-control-mode=explicit "$@"
fi
# Whoever reaches Triton may ask its models, and nothing else: a model that is loaded is a program,
# and shared memory is read and written. These calls need a key, drawn here and told to nobody.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
restricted="model-repository,shared-memory,trace,logging:weavloader-key=$key"
exec tritonserver "$@" --disable-auto-complete-config \
    --http-restricted-api="$restricted" --grpc-restricted-protocol="$restricted"
