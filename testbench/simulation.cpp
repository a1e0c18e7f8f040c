// Main program of a device simulation under cocotb (Verilator).
//
// It makes the clock, and looks at VPI only for what can wake Python: a due timer, or a change of a signal
// that Python waits for. Only when Python has run does a time step go through all of cocotb's phases, in the
// order of cocotb's own main; all other clock edges cost an evaluation and no more.
//
// Waves are written while the harness raises trace_enable; the file is opened then, too.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_vpi.h"
#if VM_TRACE
#include "verilated_fst_c.h"
#endif

extern "C" void vlog_startup_routines_bootstrap();

static const uint64_t half_period = 5000;  // ps; bench.py has the period too
static uint64_t now = 0;                   // ps

double sc_time_stamp() { return static_cast<double>(now); }

// Wake whoever waits for a change of a signal; true when someone did.
static bool settle() {
    bool woken = false;
    while (VerilatedVpi::callValueCbs()) woken = true;
    return woken;
}

// All phases of a time step, as often as Python's writes ask for it.
static void full_step(Vtop& top) {
    do {
        do {
            top.eval();
            VerilatedVpi::clearEvalNeeded();
            VerilatedVpi::doInertialPuts();
            settle();
        } while (VerilatedVpi::evalNeeded());
        VerilatedVpi::callCbs(cbReadWriteSynch);
        VerilatedVpi::doInertialPuts();
        settle();
    } while (VerilatedVpi::evalNeeded());
    VerilatedVpi::callCbs(cbReadOnlySynch);
}

static void end_of_simulation() { VerilatedVpi::callCbs(cbEndOfSimulation); }

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Verilated::fatalOnVpiError(false);
#if VM_TRACE
    Verilated::traceEverOn(true);
    std::unique_ptr<VerilatedFstC> waves;
#endif
    auto owner = std::make_unique<Vtop>("");
    Vtop& top = *owner;
    vlog_startup_routines_bootstrap();
    Verilated::addExitCb([](void*) { end_of_simulation(); }, nullptr);
    VerilatedVpi::callCbs(cbStartOfSimulation);
    settle();
    full_step(top);
    uint64_t edge = half_period;
    while (!Verilated::gotFinish()) {
        const uint64_t deadline = VerilatedVpi::cbNextDeadline();
        now = std::min(edge, deadline);
        bool woken = deadline == now;
        if (VerilatedVpi::hasCbs(cbNextSimTime)) {
            VerilatedVpi::callCbs(cbNextSimTime);
            woken = true;
        }
        if (deadline == now) VerilatedVpi::callTimedCbs();
        if (edge == now) {
            top.clk = !top.clk;
            edge += half_period;
        }
        if (!woken) {
            top.eval();
            woken = settle();
        }
        if (woken) full_step(top);
#if VM_TRACE
        if (top.trace_enable) {
            if (!waves) {
                waves = std::make_unique<VerilatedFstC>();
                top.trace(waves.get(), 99);
                waves->open("waves.fst");
            }
            waves->dump(now);
        }
#endif
    }
    top.final();
    end_of_simulation();
#if VM_TRACE
    if (waves) waves->close();
#endif
    return Verilated::threadContextp()->errorCount() > 0 ? 1 : 0;
}
