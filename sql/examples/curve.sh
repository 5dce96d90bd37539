#!/bin/sh
# Draw doc/curve.svg: the losses of overfit.sql's two runs, out of the rows that lm_train leaves. Needs gnuplot.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sqlite3 "$folder/curve.db" ".load build/lm" ".read sql/examples/overfit.sql" >/dev/null
sqlite3 -separator '	' "$folder/curve.db" "SELECT step, loss, coalesce(val_loss, 'NaN') FROM lm_run_step WHERE run = (SELECT min(id) FROM lm_run)" >"$folder/parrot"
stop=$(sqlite3 "$folder/curve.db" "SELECT max(step) FROM lm_run_step WHERE run = (SELECT max(id) FROM lm_run)")
gnuplot <<END
set datafile missing 'NaN'
set terminal svg size 640, 260 font 'Helvetica,Arial,sans-serif,12' background '#ffffff' dynamic
set output 'doc/curve.svg'
set border 3 linecolor '#999999'
set tics nomirror scale 0.4 textcolor '#666666'
set grid ytics linetype 1 linecolor '#ececec'
set xlabel 'step' textcolor '#666666'
set ylabel 'loss' textcolor '#666666'
set yrange [0 : 5]
set key top right samplen 1.2 textcolor '#444444'
set arrow from $stop, 0 to $stop, 3.6 nohead linecolor '#c2452d' dashtype 2
set label 'patience stops here' at $stop + 2, 3.4 textcolor '#c2452d'
plot '$folder/parrot' using 1:2 with lines linewidth 2 linecolor '#2a6fbb' title 'sentences that it is shown', \
     '' using 1:3 with linespoints linewidth 2 pointtype 7 pointsize 0.5 linecolor '#c2452d' title 'sentences held back'
END
