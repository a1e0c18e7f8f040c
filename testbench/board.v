// A board with the device `lacuna`: external memory, and a bridge to its registers.
//
// An edge of `register_request` asks for one access on AXI4-Lite; register_acknowledge follows it when
// register_result and register_response are there. The rest of the ports is external_memory's.
`default_nettype none

module board #(
    parameter MEMORY_WORDS = 1 << 22
) (
    input  wire        clk,
    input  wire        reset,
    output wire        irq,

    input  wire        register_request,
    input  wire        register_write,
    input  wire [31:0] register_address,
    input  wire [31:0] register_value,
    output reg         register_acknowledge,
    output reg  [31:0] register_result,
    output reg  [1:0]  register_response,

    input  wire        file_request,
    input  wire        file_store,
    input  wire [31:0] file_first,
    input  wire [31:0] file_count,
    output wire        file_acknowledge,

    input  wire [15:0] latency,
    input  wire [15:0] beat_interval,
    input  wire [15:0] flash_latency,
    input  wire [15:0] flash_interval,
    input  wire [31:0] flash_first,
    input  wire [31:0] flash_last,
    input  wire [31:0] stall_seed,
    input  wire [1:0]  error_on,
    input  wire [31:0] error_first,
    input  wire [31:0] error_last,
    output wire [7:0]  violation
);
    reg rst = 1;
    always @(posedge clk) rst <= reset;

    initial begin
        register_acknowledge = 0;
        register_result = 0;
        register_response = 0;
    end

    // ---- registers -----------------------------------------------------------------------------
    reg  [31:0] s_axil_awaddr = 0, s_axil_araddr = 0, s_axil_wdata = 0;
    reg         s_axil_awvalid = 0, s_axil_wvalid = 0, s_axil_arvalid = 0;
    wire        s_axil_awready, s_axil_wready, s_axil_bvalid, s_axil_arready, s_axil_rvalid;
    wire [1:0]  s_axil_bresp, s_axil_rresp;
    wire [31:0] s_axil_rdata;
    reg         busy = 0;

    always @(posedge clk) begin
        if (rst) begin
            busy <= 0;
            s_axil_awvalid <= 0;
            s_axil_wvalid <= 0;
            s_axil_arvalid <= 0;
            register_acknowledge <= register_request;
        end else if (!busy) begin
            if (register_request != register_acknowledge) begin
                busy <= 1;
                s_axil_awaddr <= register_address;
                s_axil_araddr <= register_address;
                s_axil_wdata <= register_value;
                s_axil_awvalid <= register_write;
                s_axil_wvalid <= register_write;
                s_axil_arvalid <= !register_write;
            end
        end else begin
            if (s_axil_awready) s_axil_awvalid <= 0;
            if (s_axil_wready) s_axil_wvalid <= 0;
            if (s_axil_arready) s_axil_arvalid <= 0;
            if (s_axil_bvalid || s_axil_rvalid) begin
                busy <= 0;
                register_result <= s_axil_rdata;
                register_response <= s_axil_bvalid ? s_axil_bresp : s_axil_rresp;
                register_acknowledge <= register_request;
            end
        end
    end

    // ---- device and memory ---------------------------------------------------------------------
    wire        m_axi_awid, m_axi_bid, m_axi_arid, m_axi_rid;
    wire [31:0] m_axi_awaddr, m_axi_araddr;
    wire [7:0]  m_axi_awlen, m_axi_arlen, m_axi_wstrb;
    wire [2:0]  m_axi_awsize, m_axi_arsize;
    wire [1:0]  m_axi_awburst, m_axi_arburst, m_axi_bresp, m_axi_rresp;
    wire [63:0] m_axi_wdata, m_axi_rdata;
    wire        m_axi_awvalid, m_axi_awready, m_axi_wlast, m_axi_wvalid, m_axi_wready, m_axi_bvalid, m_axi_bready;
    wire        m_axi_arvalid, m_axi_arready, m_axi_rlast, m_axi_rvalid, m_axi_rready;

    lacuna device (
        .clk(clk), .rst(rst), .irq(irq),
        .m_axi_awid(m_axi_awid), .m_axi_awaddr(m_axi_awaddr), .m_axi_awlen(m_axi_awlen),
        .m_axi_awsize(m_axi_awsize), .m_axi_awburst(m_axi_awburst),
        .m_axi_awvalid(m_axi_awvalid), .m_axi_awready(m_axi_awready),
        .m_axi_wdata(m_axi_wdata), .m_axi_wstrb(m_axi_wstrb), .m_axi_wlast(m_axi_wlast),
        .m_axi_wvalid(m_axi_wvalid), .m_axi_wready(m_axi_wready),
        .m_axi_bid(m_axi_bid), .m_axi_bresp(m_axi_bresp), .m_axi_bvalid(m_axi_bvalid), .m_axi_bready(m_axi_bready),
        .m_axi_arid(m_axi_arid), .m_axi_araddr(m_axi_araddr), .m_axi_arlen(m_axi_arlen),
        .m_axi_arsize(m_axi_arsize), .m_axi_arburst(m_axi_arburst),
        .m_axi_arvalid(m_axi_arvalid), .m_axi_arready(m_axi_arready),
        .m_axi_rid(m_axi_rid), .m_axi_rdata(m_axi_rdata), .m_axi_rresp(m_axi_rresp), .m_axi_rlast(m_axi_rlast),
        .m_axi_rvalid(m_axi_rvalid), .m_axi_rready(m_axi_rready),
        .s_axil_awaddr(s_axil_awaddr), .s_axil_awprot(3'd0),
        .s_axil_awvalid(s_axil_awvalid), .s_axil_awready(s_axil_awready),
        .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(4'hf),
        .s_axil_wvalid(s_axil_wvalid), .s_axil_wready(s_axil_wready),
        .s_axil_bresp(s_axil_bresp), .s_axil_bvalid(s_axil_bvalid), .s_axil_bready(busy),
        .s_axil_araddr(s_axil_araddr), .s_axil_arprot(3'd0),
        .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready),
        .s_axil_rdata(s_axil_rdata), .s_axil_rresp(s_axil_rresp),
        .s_axil_rvalid(s_axil_rvalid), .s_axil_rready(busy)
    );

    external_memory #(.WORDS(MEMORY_WORDS)) memory (
        .clk(clk), .rst(rst),
        .latency(latency), .beat_interval(beat_interval), .stall_seed(stall_seed),
        .flash_latency(flash_latency), .flash_interval(flash_interval),
        .flash_first(flash_first), .flash_last(flash_last),
        .error_on(error_on), .error_first(error_first), .error_last(error_last), .violation(violation),
        .file_request(file_request), .file_store(file_store), .file_first(file_first), .file_count(file_count),
        .file_acknowledge(file_acknowledge),
        .awid(m_axi_awid), .awaddr(m_axi_awaddr), .awlen(m_axi_awlen), .awsize(m_axi_awsize),
        .awburst(m_axi_awburst), .awvalid(m_axi_awvalid), .awready(m_axi_awready),
        .wdata(m_axi_wdata), .wstrb(m_axi_wstrb), .wlast(m_axi_wlast), .wvalid(m_axi_wvalid), .wready(m_axi_wready),
        .bid(m_axi_bid), .bresp(m_axi_bresp), .bvalid(m_axi_bvalid), .bready(m_axi_bready),
        .arid(m_axi_arid), .araddr(m_axi_araddr), .arlen(m_axi_arlen), .arsize(m_axi_arsize),
        .arburst(m_axi_arburst), .arvalid(m_axi_arvalid), .arready(m_axi_arready),
        .rid(m_axi_rid), .rdata(m_axi_rdata), .rresp(m_axi_rresp), .rlast(m_axi_rlast),
        .rvalid(m_axi_rvalid), .rready(m_axi_rready)
    );
endmodule

`default_nettype wire
