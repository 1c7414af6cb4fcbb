#!/bin/sh
# Scores what has arrived in an archive, and sends what was found back into its studies. Each step takes up where the last
# call left it, so that the loop may be stopped and killed at any time.
#
# FANOGAN_ARCHIVE  the archive, such as http://orthanc:8042/dicom-web; who asks is in FANOGAN_ARCHIVE_USER and …_PASSWORD
# MODEL            a run or model folder
# WORK             a folder for scans, results and study codes
# EVERY            seconds between two calls; 0 ends after one
set -u
every=${EVERY:-60}
while :; do
    if fanogan fetch "$FANOGAN_ARCHIVE" --modality OPT OP --out "$WORK/scans" --codes "$WORK/keys/codes.csv"; then
        fanogan score "$MODEL" "$WORK/scans" --out "$WORK/results" --dicom --skip-bad &&
            fanogan send "$FANOGAN_ARCHIVE" "$WORK/results"
    fi
    status=$?
    [ "$every" = 0 ] && exit "$status"
    sleep "$every"
done
