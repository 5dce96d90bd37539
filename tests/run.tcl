# run.tcl: run the C tests, then every .test file (or those named), and end with what failed and one line of totals.
source tests/tester.tcl
file mkdir build/tmp

proc run_program {args} {
    puts "== [join $args]"
    flush stdout
    catch { exec {*}$args 2>@1 } output
    set lines [split [string trimright $output] \n]
    foreach line $lines {
        if {[regexp {^(\d+) passed, (\d+) failed} $line -> p f]} {
            incr ::passed $p
            set n_failed $f
        } elseif {$line ne "child process exited abnormally"} {
            puts $line
        }
    }
    if {![info exists n_failed]} {
        complain "[join $args]: did not finish: [lrange $lines end-9 end]"
    } elseif {$n_failed} {
        incr ::failed [expr {$n_failed - 1}]
        complain "[join $args]: $n_failed failed:\n[join [lrange $lines end-99 end] \n]"
    }
    return $output
}

# The same generation by every kernel set that this cpu has gives one digest.
proc compare_kernels {model cpus} {
    foreach cpu $cpus {
        if {![regexp {: (\w+): digest (\w+)} [run_program env LM_CPU=$cpu build/model_test $model] -> set digest]} continue
        if {$set ne $cpu} {
            puts "skipped: kernels $cpu: this cpu lacks them"
        } elseif {[info exists first] && $digest ne $first} {
            complain "$model: kernels $cpu: other bytes than [lindex $cpus 0]"
        } else {
            incr ::passed
            set first $digest
        }
    }
}

set files $argv
if {$files eq ""} {
    set files [lsort [glob -nocomplain tests/*.test]]
    foreach test [lsort [glob -nocomplain build/*_test]] { run_program $test }
    run_program build/soak_connections 5
    run_program build/soak_load build/lm 200
    compare_kernels tests/golden/tiny.gguf {scalar avx2 vnni amx}
    foreach model [lsort [glob tests/golden/arch_*.gguf]] { compare_kernels $model {scalar avx2 vnni amx} }
    foreach {real golden} {
        models/SmolLM2-135M-Instruct.Q4_1.gguf tests/golden/smollm2.json
        models/gemma-3-270m-q4_k_m.gguf tests/golden/gemma3.json
    } {
        if {[file exists $real]} {
            run_program build/model_test $real $golden
            compare_kernels $real {avx2 vnni amx}
        } else {
            puts "skipped: golden continuations: $real is not there (make fetch)"
        }
    }
}
foreach file $files {
    puts "== $file"
    flush stdout
    if {[catch { source $file } message]} {
        complain "$file: stopped: $message\n$::errorInfo"
    }
}
catch { db close }
if {$failed} { puts "\nWhat failed, once more:\n[join $complaints \n]" }
puts "$passed passed, $failed failed"
exit [expr {$failed > 0}]
