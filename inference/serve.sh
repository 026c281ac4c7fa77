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
    set -- --model-repository=/models/model_repository --model-control-mode=explicit "$@"
fi
# Whoever reaches Triton may ask its models, and nothing else: a model that is loaded is a program,
# and shared memory is read and written. These calls need a key, drawn here and told to nobody.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
restricted="model-repository,shared-memory,trace,logging:weavloader-key=$key"
exec tritonserver "$@" --disable-auto-complete-config \
    --http-restricted-api="$restricted" --grpc-restricted-protocol="$restricted"
