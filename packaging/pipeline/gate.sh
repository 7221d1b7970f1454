#!/bin/sh
# A gate for a pipeline: lets a tree pass only if it is exactly what was sealed. Needs no privileges.
#
#   gate.sh SEALED TREE [OPTION...]
#
# SEALED  a manifest, or what `driftlock seal` reads: oci:LAYOUT, archive:FILE, tar:FILE, dir:DIR
# TREE    a directory, or LAYOUT:TAG, an image that umoci unpacks for the time of the scan
# OPTION  for `driftlock scan`, such as --exclude 'var/cache/**' or --fail-on removed,changed
#
# The findings go to the file REPORT (driftlock.sarif) in the form FORMAT (sarif; junit, json, text). PROFILE (content)
# is how much is compared: an unpack without privileges keeps no owners, so no more can be the same. It makes no devices
# either: for an image that has some, add --exclude 'dev/*'.
#
# Ends as the scan does; anything but 0 has to stop the pipeline:
#   0      passed: everything was looked at, and nothing differs that fails
#   1..7   refused: the sum of 1 (added), 2 (removed), 4 (changed)
#   8..15  refused: 8 more, because something could not be verified, which is no pass
#   others no verdict: 64 usage, 65 and 66 the input, 73 and 74 reading and writing, 77 not permitted, 127 no driftlock
set -u
say() { printf 'gate: %s\n' "$*" >&2; }

[ $# -ge 2 ] || { say 'usage: gate.sh SEALED TREE [OPTION...]'; exit 64; }
manifest=$1 tree=$2 report=${REPORT:-driftlock.sarif}
shift 2
work=$(mktemp -d) || exit 73
# Directories of an image may be closed to their owner too.
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

case $manifest in
oci:* | archive:* | tar:* | dir:*)
    driftlock seal "$manifest" --output "$work/manifest" || exit
    manifest=$work/manifest
    ;;
esac
if ! [ -d "$tree" ]; then
    umoci unpack --rootless --image "$tree" "$work/bundle" >&2 || { say "$tree cannot be unpacked"; exit 74; }
    tree=$work/bundle/rootfs
fi
true >"$report" || exit 73
driftlock scan --manifest "$manifest" --profile "${PROFILE:-content}" --format "${FORMAT:-sarif}" "$@" "$tree" >"$report"
code=$?
case $code in
0) say 'passed' ;;
[1-7]) say "refused: the tree is not what was sealed; the findings are in $report" ;;
[89] | 1[0-5]) say "refused: not everything could be verified; the findings are in $report" ;;
*) say "no verdict: the scan ended with $code" ;;
esac
exit "$code"
