// External memory: an AXI4 slave with configurable latency and bandwidth, and a port for whole files.
//
// Reads and writes share the bandwidth: one beat every `beat_interval` cycles, taken in turn when both
// want one. Several bursts may be under way in either direction; they are served in order. A read's first
// beat is valid `latency` cycles after its address was taken (2 at least), a write's response `latency`
// cycles after its last beat. Bursts must be INCR, of whole words; what breaks AXI's rules (a crossed 4 KB
// boundary, a wrong WLAST, an address or data that changes while it waits) sets `violation`, which stays.
//
// With a `flash_interval` other than 0, reads of bursts that start at flash_first to flash_last come from a
// second port, a flash: a beat every `flash_interval` cycles, `flash_latency` before the first. It does not
// take from the bandwidth of the rest, and works at the same time: it fetches ahead, FLASH_BUFFER beats at
// most, while other reads and writes are served. AXI wants responses of one ID in order, and Lacuna has one:
// a read behind a flash's waits for it.
//
// With a `stall_seed` other than 0 every channel is held up at random, and latencies vary by 0 to 15.
// Addresses from error_first to error_last answer SLVERR to what error_on (bit 0: reads, bit 1: writes)
// says; addresses outside the memory answer DECERR.
//
// File port: an edge of `file_request` moves `file_count` words from `file_first` on, in no simulated time:
// file_store = 0 reads memory.bin (big-endian words) into the array; 1 writes memory.hex. Then
// file_acknowledge follows file_request.
`default_nettype none

module external_memory #(
    parameter WORDS = 1 << 22,  // of 8 bytes
    parameter ADDRESS_BITS = 32,
    parameter ID_BITS = 1
) (
    input  wire                    clk,
    input  wire                    rst,

    input  wire [15:0]             latency,
    input  wire [15:0]             beat_interval,
    input  wire [15:0]             flash_latency,
    input  wire [15:0]             flash_interval,
    input  wire [ADDRESS_BITS-1:0] flash_first,
    input  wire [ADDRESS_BITS-1:0] flash_last,
    input  wire [31:0]             stall_seed,
    input  wire [1:0]              error_on,
    input  wire [ADDRESS_BITS-1:0] error_first,
    input  wire [ADDRESS_BITS-1:0] error_last,
    output reg  [7:0]              violation,

    input  wire                    file_request,
    input  wire                    file_store,
    input  wire [31:0]             file_first,
    input  wire [31:0]             file_count,
    output reg                     file_acknowledge,

    input  wire [ID_BITS-1:0]      awid,
    input  wire [ADDRESS_BITS-1:0] awaddr,
    input  wire [7:0]              awlen,
    input  wire [2:0]              awsize,
    input  wire [1:0]              awburst,
    input  wire                    awvalid,
    output wire                    awready,
    input  wire [63:0]             wdata,
    input  wire [7:0]              wstrb,
    input  wire                    wlast,
    input  wire                    wvalid,
    output wire                    wready,
    output reg  [ID_BITS-1:0]      bid,
    output reg  [1:0]              bresp,
    output reg                     bvalid,
    input  wire                    bready,
    input  wire [ID_BITS-1:0]      arid,
    input  wire [ADDRESS_BITS-1:0] araddr,
    input  wire [7:0]              arlen,
    input  wire [2:0]              arsize,
    input  wire [1:0]              arburst,
    input  wire                    arvalid,
    output wire                    arready,
    output reg  [ID_BITS-1:0]      rid,
    output reg  [63:0]             rdata,
    output reg  [1:0]              rresp,
    output reg                     rlast,
    output reg                     rvalid,
    input  wire                    rready
);
    localparam DEPTH_BITS = 4;
    localparam DEPTH = 1 << DEPTH_BITS;  // bursts under way in each direction
    localparam FLASH_BUFFER = 32;  // beats
    localparam INDEX_BITS = $clog2(WORDS);
    localparam [1:0] OKAY = 0, SLVERR = 2, DECERR = 3;

    // Values of `violation`.
    localparam [7:0] BAD_READ_BURST = 1, BAD_WRITE_BURST = 2, BAD_WLAST = 3, READ_ADDRESS_CHANGED = 4,
                     WRITE_ADDRESS_CHANGED = 5, WRITE_DATA_CHANGED = 6;

    reg [63:0] memory [0:WORDS-1];

    integer i;
    initial begin
        for (i = 0; i < WORDS; i = i + 1) memory[i] = 64'd0;
        file_acknowledge = 0;
        {rvalid, rid, rdata, rresp, rlast} = 0;
        {bvalid, bid, bresp} = 0;
    end

    // ---- files ---------------------------------------------------------------------------------
    integer file, got;
    always @(file_request) begin
        if (file_request != file_acknowledge) begin
            if (file_store) begin
                $writememh("memory.hex", memory, file_first, file_first + file_count - 1);
            end else begin
                file = $fopen("memory.bin", "rb");
                got = $fread(memory, file, file_first, file_count);
                $fclose(file);
            end
            file_acknowledge = file_request;
        end
    end

    // ---- time, stalls --------------------------------------------------------------------------
    reg  [31:0] now;
    reg  [31:0] random;
    wire [31:0] random_1 = random ^ (random << 13);
    wire [31:0] random_2 = random_1 ^ (random_1 >> 17);
    wire [31:0] random_3 = random_2 ^ (random_2 << 5);
    wire        stalls = stall_seed != 0;
    wire [31:0] extra = stalls ? {28'd0, random[11:8]} : 32'd0;
    wire [31:0] delay = {16'd0, latency} + extra;

    always @(posedge clk) begin
        now <= rst ? 32'd0 : now + 32'd1;
        random <= rst ? stall_seed : random == 0 ? stall_seed : random_3;
    end

    // ---- bandwidth: one beat whenever the slot is free -----------------------------------------
    reg  [15:0] slot_wait;
    wire        slot_free = slot_wait == 0;
    reg         write_turn;
    wire        read_wants, write_wants;
    wire        fast_beat = slot_free && read_wants && !(write_wants && write_turn);
    wire        write_beat = slot_free && write_wants && !(read_wants && !write_turn);
    wire        flash_beat;
    wire        read_beat = fast_beat || flash_beat;

    always @(posedge clk) begin
        if (rst) begin
            slot_wait <= 0;
            write_turn <= 0;
        end else begin
            if (fast_beat || write_beat) slot_wait <= beat_interval - 16'd1;
            else if (slot_wait != 0) slot_wait <= slot_wait - 16'd1;
            if (fast_beat) write_turn <= 1;
            else if (write_beat) write_turn <= 0;
        end
    end

    function [1:0] response(input [ADDRESS_BITS-1:0] address, input enabled);
        if (address >= WORDS * 8) response = DECERR;
        else if (enabled && address >= error_first && address <= error_last) response = SLVERR;
        else response = OKAY;
    endfunction

    // A burst that this memory can serve: INCR, whole words, aligned, within a 4 KB page.
    function legal(input [11:0] offset, input [7:0] length, input [2:0] size, input [1:0] burst);
        legal = burst == 2'd1 && size == 3'd3 && offset[2:0] == 0 && {4'd0, offset[11:3]} + {5'd0, length} < 13'd512;
    endfunction

    // ---- reads ---------------------------------------------------------------------------------
    reg  [ADDRESS_BITS-1:0] read_address [0:DEPTH-1];
    reg  [7:0]              read_length  [0:DEPTH-1];
    reg  [31:0]             read_time    [0:DEPTH-1];
    reg  [ID_BITS-1:0]      read_id      [0:DEPTH-1];
    reg                     read_flash   [0:DEPTH-1];
    reg  [DEPTH_BITS:0]     read_in, read_out;
    reg  [7:0]              read_done;  // beats of the oldest burst that are out
    wire [DEPTH_BITS-1:0]   read_head = read_out[DEPTH_BITS-1:0];
    wire [31:0]             read_age = now - read_time[read_head];
    wire [ADDRESS_BITS-1:0] read_at = read_address[read_head] + {{ADDRESS_BITS-11{1'b0}}, read_done, 3'd0};
    wire                    read_last = read_done == read_length[read_head];

    wire                    read_open = read_in != read_out && (!rvalid || rready) && !(stalls && random[3]);
    wire                    from_flash = flash_interval != 0 && araddr >= flash_first && araddr <= flash_last;
    wire [31:0]             read_delay = from_flash ? {16'd0, flash_latency} + extra : delay;

    assign arready = read_in - read_out != DEPTH && !(stalls && random[0]);
    assign read_wants = read_open && !read_flash[read_head] && !read_age[31];

    // The flash goes through the bursts ahead of their turn, past those that are not its own.
    reg  [DEPTH_BITS:0]     fetch;
    reg  [7:0]              fetch_done;
    reg  [15:0]             flash_wait;
    reg  [7:0]              flash_held;  // beats fetched, but not out
    wire [DEPTH_BITS-1:0]   fetch_at = fetch[DEPTH_BITS-1:0];
    wire [31:0]             fetch_age = now - read_time[fetch_at];
    wire                    fetch_open = fetch != read_in;
    wire                    fetch_last = fetch_done == read_length[fetch_at];
    wire                    fetch_beat = fetch_open && read_flash[fetch_at] && !fetch_age[31] && flash_wait == 0 &&
                                         flash_held != FLASH_BUFFER;
    assign flash_beat = read_open && read_flash[read_head] && (flash_held != 0 || fetch_beat);

    always @(posedge clk) begin
        if (rst) begin
            fetch <= 0;
            fetch_done <= 0;
            flash_wait <= 0;
            flash_held <= 0;
        end else begin
            if (fetch_open && (!read_flash[fetch_at] || fetch_beat && fetch_last)) fetch <= fetch + 1;
            if (fetch_beat) begin
                fetch_done <= fetch_last ? 8'd0 : fetch_done + 8'd1;
                flash_wait <= flash_interval - 16'd1;
            end else if (flash_wait != 0) begin
                flash_wait <= flash_wait - 16'd1;
            end
            flash_held <= flash_held + {7'd0, fetch_beat} - {7'd0, flash_beat};
        end
    end

    always @(posedge clk) begin
        if (rst) begin
            read_in <= 0;
            read_out <= 0;
            read_done <= 0;
            rvalid <= 0;
        end else begin
            if (arvalid && arready) begin
                read_address[read_in[DEPTH_BITS-1:0]] <= araddr;
                read_length[read_in[DEPTH_BITS-1:0]] <= arlen;
                read_time[read_in[DEPTH_BITS-1:0]] <= now + read_delay - 1;
                read_flash[read_in[DEPTH_BITS-1:0]] <= from_flash;
                read_id[read_in[DEPTH_BITS-1:0]] <= arid;
                read_in <= read_in + 1;
            end
            if (read_beat) begin
                rvalid <= 1;
                rid <= read_id[read_head];
                rlast <= read_last;
                rresp <= response(read_at, error_on[0]);
                rdata <= read_at < WORDS * 8 ? memory[read_at[INDEX_BITS+2:3]] : 64'd0;
                read_done <= read_last ? 8'd0 : read_done + 8'd1;
                if (read_last) read_out <= read_out + 1;
            end else if (rready) begin
                rvalid <= 0;
            end
        end
    end

    // ---- writes --------------------------------------------------------------------------------
    reg  [ADDRESS_BITS-1:0] write_address [0:DEPTH-1];
    reg  [7:0]              write_length  [0:DEPTH-1];
    reg  [31:0]             write_time    [0:DEPTH-1];
    reg  [ID_BITS-1:0]      write_id      [0:DEPTH-1];
    reg  [1:0]              write_response [0:DEPTH-1];
    reg  [DEPTH_BITS:0]     write_in, write_mid, write_out;  // addresses taken, data complete, answered
    reg  [7:0]              write_done;
    reg  [1:0]              write_worst;
    wire [DEPTH_BITS-1:0]   write_head = write_mid[DEPTH_BITS-1:0];
    wire [DEPTH_BITS-1:0]   write_tail = write_out[DEPTH_BITS-1:0];
    wire [31:0]             write_age = now - write_time[write_tail];
    wire [ADDRESS_BITS-1:0] write_at = write_address[write_head] + {{ADDRESS_BITS-11{1'b0}}, write_done, 3'd0};
    wire                    write_last = write_done == write_length[write_head];
    wire [1:0]              write_this = response(write_at, error_on[1]);
    wire [1:0]              write_now = write_this > write_worst ? write_this : write_worst;
    wire [INDEX_BITS-1:0]   write_index = write_at[INDEX_BITS+2:3];

    assign awready = write_in - write_out != DEPTH && !(stalls && random[16]);
    assign write_wants = wvalid && write_in != write_mid && !(stalls && random[19]);
    assign wready = write_beat;

    integer b;
    always @(posedge clk) begin
        if (rst) begin
            write_in <= 0;
            write_mid <= 0;
            write_out <= 0;
            write_done <= 0;
            write_worst <= OKAY;
            bvalid <= 0;
        end else begin
            if (awvalid && awready) begin
                write_address[write_in[DEPTH_BITS-1:0]] <= awaddr;
                write_length[write_in[DEPTH_BITS-1:0]] <= awlen;
                write_id[write_in[DEPTH_BITS-1:0]] <= awid;
                write_in <= write_in + 1;
            end
            if (write_beat) begin
                if (write_this == OKAY)
                    for (b = 0; b < 8; b = b + 1)
                        if (wstrb[b]) memory[write_index][8*b +: 8] <= wdata[8*b +: 8];
                write_done <= write_last ? 8'd0 : write_done + 8'd1;
                write_worst <= write_last ? OKAY : write_now;
                if (write_last) begin
                    write_time[write_head] <= now + delay - 1;
                    write_response[write_head] <= write_now;
                    write_mid <= write_mid + 1;
                end
            end
            if (!bvalid || bready) begin
                bvalid <= 0;
                if (write_mid != write_out && !write_age[31] && !(stalls && random[24])) begin
                    bvalid <= 1;
                    bid <= write_id[write_tail];
                    bresp <= write_response[write_tail];
                    write_out <= write_out + 1;
                end
            end
        end
    end

    // ---- rules ---------------------------------------------------------------------------------
    wire [ADDRESS_BITS+ID_BITS+12:0] read_request = {araddr, arid, arlen, arsize, arburst};
    wire [ADDRESS_BITS+ID_BITS+12:0] write_request = {awaddr, awid, awlen, awsize, awburst};
    wire [72:0]                      write_data = {wdata, wstrb, wlast};
    reg  [ADDRESS_BITS+ID_BITS+12:0] read_request_then, write_request_then;
    reg  [72:0]                      write_data_then;
    reg                              read_waits, write_waits, data_waits;

    always @(posedge clk) begin
        read_request_then <= read_request;
        write_request_then <= write_request;
        write_data_then <= write_data;
        read_waits <= arvalid && !arready && !rst;
        write_waits <= awvalid && !awready && !rst;
        data_waits <= wvalid && !wready && !rst;
        if (rst) violation <= 0;
        else if (violation == 0) begin
            if (arvalid && !legal(araddr[11:0], arlen, arsize, arburst)) violation <= BAD_READ_BURST;
            if (awvalid && !legal(awaddr[11:0], awlen, awsize, awburst)) violation <= BAD_WRITE_BURST;
            if (write_beat && wlast != write_last) violation <= BAD_WLAST;
            if (read_waits && !(arvalid && read_request == read_request_then)) violation <= READ_ADDRESS_CHANGED;
            if (write_waits && !(awvalid && write_request == write_request_then)) violation <= WRITE_ADDRESS_CHANGED;
            if (data_waits && !(wvalid && write_data == write_data_then)) violation <= WRITE_DATA_CHANGED;
        end
    end
endmodule

`default_nettype wire
