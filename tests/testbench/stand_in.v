// A device with the ports of `lacuna` and next to nothing inside, to test harness, bench and link with:
// it copies WINDOW0_SIZE bytes from WINDOW0_BASE to WINDOW2_BASE and raises the interrupt. Bus errors go to
// ERROR_CODE. A size of 0 never ends. PROGRAM = 1 makes it break AXI4's rule about 4 KB pages.
`default_nettype none

module lacuna (
    input  wire        clk, rst,
    output wire        irq,
    output wire        m_axi_awid, output wire [31:0] m_axi_awaddr, output wire [7:0] m_axi_awlen,
    output wire [2:0]  m_axi_awsize, output wire [1:0] m_axi_awburst,
    output reg         m_axi_awvalid, input wire m_axi_awready,
    output wire [63:0] m_axi_wdata, output wire [7:0] m_axi_wstrb, output wire m_axi_wlast,
    output wire        m_axi_wvalid, input wire m_axi_wready,
    input  wire        m_axi_bid, input wire [1:0] m_axi_bresp, input wire m_axi_bvalid, output wire m_axi_bready,
    output wire        m_axi_arid, output wire [31:0] m_axi_araddr, output wire [7:0] m_axi_arlen,
    output wire [2:0]  m_axi_arsize, output wire [1:0] m_axi_arburst,
    output reg         m_axi_arvalid, input wire m_axi_arready,
    input  wire        m_axi_rid, input wire [63:0] m_axi_rdata, input wire [1:0] m_axi_rresp, input wire m_axi_rlast,
    input  wire        m_axi_rvalid, output wire m_axi_rready,
    input  wire [31:0] s_axil_awaddr, input wire [2:0] s_axil_awprot, input wire s_axil_awvalid,
    output wire        s_axil_awready,
    input  wire [31:0] s_axil_wdata, input wire [3:0] s_axil_wstrb, input wire s_axil_wvalid,
    output wire        s_axil_wready,
    output wire [1:0]  s_axil_bresp, output reg s_axil_bvalid, input wire s_axil_bready,
    input  wire [31:0] s_axil_araddr, input wire [2:0] s_axil_arprot, input wire s_axil_arvalid,
    output wire        s_axil_arready,
    output reg  [31:0] s_axil_rdata, output wire [1:0] s_axil_rresp, output reg s_axil_rvalid, input wire s_axil_rready
);
    // ---- registers -------------------------------------------------------------------------------
    reg [31:0] fault, source, size, target, cycles;
    reg [7:0]  error;
    reg        busy, interrupt;
    wire       write = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
    wire       start = write && s_axil_awaddr[8:0] == 9'h00c && s_axil_wdata[0];
    reg        finish;

    assign s_axil_awready = write;
    assign s_axil_wready = write;
    assign s_axil_bresp = 0;
    assign s_axil_arready = !s_axil_rvalid;
    assign s_axil_rresp = s_axil_araddr[31:9] != 0 ? 2 : 0;
    assign irq = interrupt;

    always @(posedge clk) begin
        if (busy) cycles <= cycles + 1;
        if (s_axil_bready) s_axil_bvalid <= 0;
        if (s_axil_rready) s_axil_rvalid <= 0;
        if (write) begin
            s_axil_bvalid <= 1;
            case (s_axil_awaddr[8:0])
                9'h00c: begin
                    if (s_axil_wdata[0]) begin busy <= 1; cycles <= 0; end
                    if (s_axil_wdata != 0) interrupt <= 0;
                end
                9'h024: fault <= s_axil_wdata;
                9'h080: source <= s_axil_wdata;
                9'h088: size <= s_axil_wdata;
                9'h0a0: target <= s_axil_wdata;
                default: ;
            endcase
        end
        if (s_axil_arvalid && s_axil_arready) begin
            s_axil_rvalid <= 1;
            case (s_axil_araddr[8:0])
                9'h000: s_axil_rdata <= 32'h414e434c;
                9'h010: s_axil_rdata <= {28'd0, interrupt, error != 0, interrupt, busy};
                9'h018: s_axil_rdata <= error;
                9'h024: s_axil_rdata <= fault;
                9'h02c: s_axil_rdata <= cycles;
                9'h030: s_axil_rdata <= done[10:5];   // "commands" of 32 beats each
                9'h034: s_axil_rdata <= asked[10:5];
                9'h040, 9'h044, 9'h048, 9'h04c: s_axil_rdata <= 32'hffffffff;
                9'h080: s_axil_rdata <= source;
                9'h088: s_axil_rdata <= size;
                9'h0a0: s_axil_rdata <= target;
                default: s_axil_rdata <= 0;
            endcase
        end
        if (finish) begin
            busy <= 0;
            interrupt <= 1;
        end
        if (rst) begin
            {fault, source, size, target, cycles} <= 0;
            {busy, interrupt, s_axil_bvalid, s_axil_rvalid} <= 0;
        end
    end

    // ---- copy: bursts of at most 32 beats within a page, read into a FIFO of 64 beats, written from there --
    reg  [63:0] fifo [0:63];
    reg  [31:0] asked, got, sent, done;        // beats: asked for, read, address sent, written
    reg  [31:0] answers, bursts;
    wire [31:0] beats = size >> 3;
    wire [31:0] from = source + (asked << 3), to = target + (sent << 3);
    wire [31:0] page = fault[0] ? 32'd512 : 32'd512 - {23'd0, from[11:3]};
    wire [31:0] read_left = beats - asked;
    wire [31:0] read_most = page < 32 ? page : 32;
    wire [31:0] read_length = read_left < read_most ? read_left : read_most;
    reg  [31:0] write_length;
    wire [31:0] write_page = 32'd512 - {23'd0, to[11:3]};
    wire [31:0] write_left = beats - sent;
    wire [31:0] write_most = write_page < 32 ? write_page : 32;
    reg  [7:0]  write_beats;
    reg         writing;

    reg  [31:0] read_address;
    reg  [7:0]  read_len;
    reg  [31:0] write_address;
    assign m_axi_arid = 0;
    assign m_axi_araddr = read_address;
    assign m_axi_arlen = read_len;
    assign m_axi_arsize = 3;
    assign m_axi_arburst = 1;
    assign m_axi_rready = 1;
    assign m_axi_awid = 0;
    assign m_axi_awaddr = write_address;
    assign m_axi_awlen = write_length[7:0] - 1;
    assign m_axi_awsize = 3;
    assign m_axi_awburst = 1;
    assign m_axi_wvalid = writing && write_beats != 0 && got != done;
    assign m_axi_wdata = fifo[done[5:0]];
    assign m_axi_wstrb = 8'hff;
    assign m_axi_wlast = write_beats == 1;
    assign m_axi_bready = 1;

    always @(posedge clk) begin
        finish <= 0;
        if (busy) begin
            if (m_axi_arvalid && m_axi_arready) m_axi_arvalid <= 0;
            if (!m_axi_arvalid && asked != beats && asked + read_length - done <= 64) begin
                m_axi_arvalid <= 1;
                read_address <= from;
                read_len <= read_length[7:0] - 1;
                asked <= asked + read_length;
            end
            if (m_axi_rvalid) begin
                fifo[got[5:0]] <= m_axi_rdata;
                got <= got + 1;
                if (m_axi_rresp != 0) error <= 8;
            end
            if (m_axi_awvalid && m_axi_awready) m_axi_awvalid <= 0;
            if (!writing && sent != beats) begin
                writing <= 1;
                m_axi_awvalid <= 1;
                write_address <= to;
                write_length <= write_left < write_most ? write_left : write_most;
                write_beats <= write_left < write_most ? write_left : write_most;
                sent <= sent + (write_left < write_most ? write_left : write_most);
                bursts <= bursts + 1;
            end
            if (m_axi_wvalid && m_axi_wready) begin
                done <= done + 1;
                write_beats <= write_beats - 1;
            end
            if (writing && !m_axi_awvalid && write_beats == 0) writing <= 0;
            if (m_axi_bvalid) begin
                answers <= answers + 1;
                if (m_axi_bresp != 0) error <= 9;
            end
            if (done == beats && answers == bursts && beats != 0) finish <= !finish;
        end
        if (rst || start) begin
            {asked, got, sent, done, answers, bursts} <= 0;
            {m_axi_arvalid, m_axi_awvalid, writing} <= 0;
            error <= 0;
            write_beats <= 0;
        end
    end
endmodule

`default_nettype wire
