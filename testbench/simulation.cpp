// Main program of a device simulation under cocotb (Verilator).
//
// The order of the VPI callbacks in a time step is that of cocotb's own main; what differs is that waves
// are written only while the harness raises trace_enable, and that the file is opened only then.
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

static uint64_t now = 0;  // in ps

double sc_time_stamp() { return static_cast<double>(now); }

static void settle() {
    while (VerilatedVpi::callValueCbs()) {
    }
}

static void end_of_simulation() { VerilatedVpi::callCbs(cbEndOfSimulation); }

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Verilated::fatalOnVpiError(false);
#if VM_TRACE
    Verilated::traceEverOn(true);
    std::unique_ptr<VerilatedFstC> waves;
#endif
    auto top = std::make_unique<Vtop>("");
    vlog_startup_routines_bootstrap();
    Verilated::addExitCb([](void*) { end_of_simulation(); }, nullptr);
    VerilatedVpi::callCbs(cbStartOfSimulation);
    settle();
    while (!Verilated::gotFinish()) {
        do {
            do {
                top->eval_step();
                VerilatedVpi::clearEvalNeeded();
                VerilatedVpi::doInertialPuts();
                settle();
            } while (VerilatedVpi::evalNeeded());
            VerilatedVpi::callCbs(cbReadWriteSynch);
            VerilatedVpi::doInertialPuts();
            settle();
        } while (VerilatedVpi::evalNeeded());
        top->eval_end_step();
        VerilatedVpi::callCbs(cbReadOnlySynch);
#if VM_TRACE
        if (top->trace_enable) {
            if (!waves) {
                waves = std::make_unique<VerilatedFstC>();
                top->trace(waves.get(), 99);
                waves->open("waves.fst");
            }
            waves->dump(now);
        }
#endif
        const uint64_t never = ~UINT64_C(0);
        const uint64_t next_event = top->eventsPending() ? top->nextTimeSlot() : never;
        const uint64_t next = std::min<uint64_t>(VerilatedVpi::cbNextDeadline(), next_event);
        if (next == never) break;
        now = next;
        VerilatedVpi::callCbs(cbNextSimTime);
        settle();
        VerilatedVpi::callTimedCbs();
        settle();
    }
    top->final();
    end_of_simulation();
#if VM_TRACE
    if (waves) waves->close();
#endif
    return Verilated::threadContextp()->errorCount() > 0 ? 1 : 0;
}
