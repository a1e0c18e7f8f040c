// What cocotb drives: a board whose clock Python has nothing to do with, so that it never wakes on a clock
// edge. It sets a request, then sleeps until the acknowledge, or until the interrupt.
`timescale 1ns / 1ps
`default_nettype none

module harness #(
    parameter MEMORY_WORDS = 1 << 22
) (
`ifdef VERILATOR
    input  wire clk,  // simulation.cpp makes it: faster than a delay in HDL
`endif
    output reg  trace_enable  // simulation.cpp writes waves while this is 1
);
    // ---- seen from Python; the names are those of board.v --------------------------------------
    reg         reset = 1;
    wire        irq;
    reg         register_request = 0;
    reg         register_write = 0;
    reg  [31:0] register_address = 0;
    reg  [31:0] register_value = 0;
    wire        register_acknowledge;
    wire [31:0] register_result;
    wire [1:0]  register_response;
    reg         file_request = 0;
    reg         file_store = 0;
    reg  [31:0] file_first = 0;
    reg  [31:0] file_count = 0;
    wire        file_acknowledge;
    reg  [15:0] latency = 20;
    reg  [15:0] beat_interval = 1;
    reg  [15:0] flash_latency = 20;
    reg  [15:0] flash_interval = 0;
    reg  [31:0] flash_first = 0;
    reg  [31:0] flash_last = 0;
    reg  [31:0] stall_seed = 0;
    reg  [1:0]  error_on = 0;
    reg  [31:0] error_first = 0;
    reg  [31:0] error_last = 0;
    wire [7:0]  violation;
    reg         trace = 0;

    // ---- clock, waves --------------------------------------------------------------------------
`ifndef VERILATOR
    reg clk = 0;
    always #5 clk = !clk;  // bench.py has the period, 10 ns, too
`endif

    always @(trace) trace_enable = trace;
    initial trace_enable = 0;
`ifdef WAVES_BY_SYSTEM_TASK
    initial #0 $dumpoff;
    always @(trace_enable) if (trace_enable) $dumpon; else $dumpoff;
`endif

    // --------------------------------------------------------------------------------------------
    board #(.MEMORY_WORDS(MEMORY_WORDS)) board (
        .clk(clk), .reset(reset), .irq(irq),
        .register_request(register_request), .register_write(register_write),
        .register_address(register_address), .register_value(register_value),
        .register_acknowledge(register_acknowledge), .register_result(register_result),
        .register_response(register_response),
        .file_request(file_request), .file_store(file_store), .file_first(file_first), .file_count(file_count),
        .file_acknowledge(file_acknowledge),
        .latency(latency), .beat_interval(beat_interval), .stall_seed(stall_seed),
        .flash_latency(flash_latency), .flash_interval(flash_interval),
        .flash_first(flash_first), .flash_last(flash_last),
        .error_on(error_on), .error_first(error_first), .error_last(error_last), .violation(violation)
    );
endmodule

`default_nettype wire
