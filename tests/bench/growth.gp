# growth.gp: how speed grows with sequences at once, and falls with context. Usage: gnuplot -e "data='…'; out='…'" growth.gp
# data: n, sequences at once in tokens a second (ours, llama.cpp's), decoding behind n tokens, the first token's milliseconds.
set datafile separator '\t'
set terminal svg size 760, 300 font 'Helvetica,Arial,sans-serif,12' background '#ffffff' dynamic
set output out
set multiplot layout 1, 3 margins 0.085, 0.985, 0.16, 0.87 spacing 0.075, 0
set border 3 linecolor '#999999'
set tics nomirror scale 0.4 textcolor '#666666'
set grid ytics linetype 1 linecolor '#ececec'
set logscale x 2
set yrange [0 : *]
set format y '%g'
set ylabel 'tokens/s' offset 1.5,0 textcolor '#666666'
set key top left reverse Left samplen 1.2 textcolor '#444444'
set style line 1 linecolor '#2a6fbb' linewidth 2 pointtype 7 pointsize 0.6
set style line 2 linecolor '#9aa1ab' linewidth 2 pointtype 7 pointsize 0.6
set title 'decode, by sequences at once' textcolor '#222222'
set xrange [0.8 : 320]
set xtics ('1' 1, '4' 4, '16' 16, '64' 64, '256' 256)
plot data using 1:2 with linespoints linestyle 1 title 'sqlite-lm', '' using 1:3 with linespoints linestyle 2 title 'llama.cpp'
unset key
unset ylabel
set title 'decode, by tokens before'
set xrange [110 : 4800]
set xtics ('128' 128, '512' 512, '1k' 1024, '2k' 2048, '4k' 4096)
plot data using 1:4 with linespoints linestyle 1
set title 'prefill, by tokens of the prompt'
plot data using 1:($1 * 1000 / $5) with linespoints linestyle 1
unset multiplot
