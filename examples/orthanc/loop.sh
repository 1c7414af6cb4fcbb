#!/bin/sh
# Scores what has arrived in an archive, study by study, and sends what was found back. Each step takes up where the last
# call left it, so that the loop may be stopped and killed at any time.
#
# FANOGAN_ARCHIVE  the archive, such as http://orthanc:8042/dicom-web; who asks is in FANOGAN_ARCHIVE_USER and …_PASSWORD
# MODEL            a run or model folder
# WORK             a folder for scans, results and study codes
# EVERY            seconds between two rounds, 60 unless given; 0 ends after one
set -u
mkdir -p "$WORK/done"
while :; do
    failed=0
    fanogan fetch "$FANOGAN_ARCHIVE" --modality OPT OP --out "$WORK/scans" --codes "$WORK/keys/codes.csv" || failed=1
    for study in "$WORK"/scans/*/*/; do
        [ -d "$study" ] || continue
        name=$(basename "$(dirname "$study")")-$(basename "$study")
        [ -e "$WORK/done/$name" ] && [ ! "$study" -nt "$WORK/done/$name" ] && continue
        fanogan score "$MODEL" "$study" --out "$WORK/results/$name" --dicom --skip-bad &&
            fanogan send "$FANOGAN_ARCHIVE" "$WORK/results/$name" &&
            touch "$WORK/done/$name" || failed=1
    done
    [ "${EVERY:-60}" = 0 ] && exit "$failed"
    sleep "${EVERY:-60}"
done
