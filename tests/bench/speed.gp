# speed.gp: how many times as fast as the others, a bar a work. Usage: gnuplot -e "data='…'; out='…'" speed.gp
# data: model, work, ratio, our figure, theirs, unit, who; between tabs, as report.sql writes it.
set datafile separator '\t'
stats data using 3 nooutput
n = STATS_records
set terminal svg size 760, 62 + 36 * n font 'Helvetica,Arial,sans-serif,13' background '#ffffff' dynamic noenhanced
set output out
set lmargin 26
set rmargin 22
set tmargin 0.5
set bmargin 3.4
unset key
unset ytics
set border 0
set xrange [0 : STATS_max * 1.02]
set yrange [n - 0.42 : -0.58]
step = STATS_max > 12 ? 5 : STATS_max > 6 ? 2 : 1
set xtics step, step scale 0 format '%g x' textcolor '#777777'
set grid xtics linetype 1 linecolor '#e6e6e6'
set xlabel 'times as fast as the other (gray, 1 x), on the same machine in the same run' textcolor '#777777'
set style fill solid noborder
plot data using (0):0:(0):3:($0 - 0.34):($0 + 0.10) with boxxyerror linecolor '#2a6fbb', \
     data using (0):0:(0):(1):($0 + 0.12):($0 + 0.28) with boxxyerror linecolor '#aeb4bd', \
     data using 3:($0 - 0.12):(sprintf('%.1f x', $3)) with labels left offset 0.7,0 font 'Helvetica:Bold,13' textcolor '#222222', \
     data using 3:($0 - 0.12):(strcol(4).' : '.strcol(5).' '.strcol(6)) with labels left offset 6.2,0 textcolor '#444444', \
     data using (0):($0 - 0.15):(strcol(2)) with labels right offset -0.8,0 textcolor '#222222', \
     data using (0):($0 + 0.22):(strcol(1).', '.strcol(7)) with labels right offset -0.8,0 font ',10' textcolor '#888888'
