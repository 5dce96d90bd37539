# run.tcl: run the C tests, then every .test file (or those named), and end with one line of totals.
source tests/tester.tcl

proc run_program {args} {
    puts "== [join $args]"
    flush stdout
    catch { exec {*}$args 2>@1 } output
    set lines [split [string trimright $output] \n]
    foreach line $lines {
        if {[regexp {^(\d+) passed, (\d+) failed} $line -> p f]} {
            incr ::passed $p
            incr ::failed $f
            set counted 1
        } elseif {$line ne "child process exited abnormally"} {
            puts $line
        }
    }
    if {![info exists counted]} {
        incr ::failed
        puts "[lindex $args 0]: did not finish"
    }
    return $output
}

set real models/SmolLM2-135M-Instruct.Q4_1.gguf
set files $argv
if {$files eq ""} {
    set files [lsort [glob -nocomplain tests/*.test]]
    foreach test [lsort [glob -nocomplain build/*_test]] { run_program $test }
    # The same generation by every kernel set that this cpu has gives one digest.
    foreach cpu {scalar avx2 vnni} {
        if {![regexp {: (\w+): digest (\w+)} [run_program env LM_CPU=$cpu build/model_test] -> set digest]} continue
        if {$set ne $cpu} {
            puts "skipped: kernels $cpu: this cpu lacks them"
        } elseif {[info exists first] && $digest ne $first} {
            incr failed
            puts "kernels $cpu: other bytes than scalar"
        } else {
            incr passed
            set first $digest
        }
    }
    if {[file exists $real]} {
        run_program build/model_test $real tests/golden/smollm2.json
    } else {
        puts "skipped: golden continuations: $real is not there (make fetch)"
    }
}
foreach file $files {
    puts "== $file"
    flush stdout
    if {[catch { source $file } message]} {
        incr failed
        puts "$file: stopped: $message\n$::errorInfo"
    }
}
catch { db close }
puts "$passed passed, $failed failed"
exit [expr {$failed > 0}]
