// The board under a bare C++ main: what the same netlist runs at without cocotb, VPI or an event scheduler.
//
// It replays the requests of "requests", a text file: `load FIRST COUNT` (words of memory from the file
// memory.N.bin, N counting the loads from 0), `write ADDRESS VALUE` (a register), `wait CYCLES` (for the
// interrupt). Prints, as JSON: cycles and seconds spent in waits, and whether an interrupt failed to come.
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>

#include "Vtop.h"
#include "verilated.h"

static void cycle(Vtop& board) {
    board.clk = 1;
    board.eval();
    board.clk = 0;
    board.eval();
}

static int fail(const std::string& text) {
    std::fprintf(stderr, "%s\n", text.c_str());
    return 1;
}

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    auto top = std::make_unique<Vtop>();
    Vtop& board = *top;
    board.reset = 1;
    board.latency = argc > 1 ? std::atoi(argv[1]) : 20;
    board.beat_interval = argc > 2 ? std::atoi(argv[2]) : 1;
    for (int i = 0; i < 4; ++i) cycle(board);
    board.reset = 0;
    for (int i = 0; i < 4; ++i) cycle(board);

    uint64_t run_cycles = 0;
    double run_s = 0;
    unsigned loads = 0, timeouts = 0;
    std::ifstream requests("requests");
    std::string request;
    while (requests >> request) {
        uint64_t first = 0, second = 0;
        requests >> first;
        if (request == "load") {
            requests >> second;
            const std::string name = "memory." + std::to_string(loads++) + ".bin";
            if (std::rename(name.c_str(), "memory.bin")) return fail("no file " + name);
            board.file_store = 0;
            board.file_first = first;
            board.file_count = second;
            board.file_request = !board.file_request;
            board.eval();
            if (board.file_acknowledge != board.file_request) return fail("the memory did not load " + name);
        } else if (request == "write") {
            requests >> second;
            board.register_write = 1;
            board.register_address = first;
            board.register_value = second;
            board.register_request = !board.register_request;
            for (int i = 0; board.register_acknowledge != board.register_request; ++i) {
                if (i == 10000) return fail("the device does not answer on AXI4-Lite");
                cycle(board);
            }
        } else if (request == "wait") {
            const auto start = std::chrono::steady_clock::now();
            uint64_t cycles = 0;
            for (; !board.irq && cycles < first; ++cycles) cycle(board);
            run_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            run_cycles += cycles;
            timeouts += !board.irq;
            if (board.violation) return fail("the device broke a rule of AXI4: " + std::to_string(board.violation));
        } else {
            return fail("there is no request " + request);
        }
    }
    std::printf("{\"run_cycles\": %" PRIu64 ", \"run_s\": %.6f, \"timeouts\": %u}\n", run_cycles, run_s, timeouts);
    board.final();
    return 0;
}
