// Main program of a simulated board (Verilator): its serial line is a pseudo-terminal.
//
// `simulation DIVISOR` prints the path of the pseudo-terminal, then runs the board top for as long as its standard
// input is open. Time stands still while the line is quiet and no program runs: a host that thinks costs nothing.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>

#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include "Vtop.h"
#include "verilated.h"

static const int settle_cycles = 2000;  // of quiet, before time stands still
static const int look_cycles = 64;      // between looks at the pseudo-terminal

static int fail(const char* what) {
    std::perror(what);
    return 1;
}

// Bytes to `rx`, a bit every `divisor` cycles: start, eight data bits, stop.
struct Sender {
    std::deque<uint8_t> bytes;
    int bits_left = 0, cycles_left = 0, divisor;
    unsigned shift = 0;

    bool quiet() const { return bytes.empty() && !bits_left; }

    int cycle() {
        if (!bits_left && !bytes.empty()) {
            shift = 0x200u | bytes.front() << 1;
            bytes.pop_front();
            bits_left = 10;
            cycles_left = divisor;
        }
        if (!bits_left) return 1;
        const int level = shift & 1;
        if (--cycles_left == 0) {
            shift >>= 1;
            --bits_left;
            cycles_left = divisor;
        }
        return level;
    }
};

// Bytes from `tx`, sampled in the middle of each bit. A byte without its stop bit is lost, as a host's UART does.
struct Receiver {
    int bits_left = 0, cycles_left = 0, divisor;
    unsigned shift = 0;

    bool quiet() const { return !bits_left; }

    bool cycle(int level, uint8_t& byte) {
        if (!bits_left) {
            if (!level) {
                bits_left = 9;
                cycles_left = divisor + divisor / 2;
                shift = 0;
            }
            return false;
        }
        if (--cycles_left) return false;
        cycles_left = divisor;
        shift |= level << (9 - bits_left);
        if (--bits_left) return false;
        byte = shift & 0xff;
        return shift >> 8;
    }
};

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Sender sender;
    Receiver receiver;
    sender.divisor = receiver.divisor = argc > 1 ? std::atoi(argv[1]) : 0;
    if (sender.divisor < 1) return std::fprintf(stderr, "usage: simulation DIVISOR\n"), 2;
    const int line = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (line < 0 || grantpt(line) || unlockpt(line)) return fail("pseudo-terminal");
    const int other_end = open(ptsname(line), O_RDWR | O_NOCTTY);  // kept open: hosts come and go
    termios mode;
    if (other_end < 0 || tcgetattr(other_end, &mode)) return fail("pseudo-terminal");
    cfmakeraw(&mode);
    if (tcsetattr(other_end, TCSANOW, &mode)) return fail("pseudo-terminal");

    auto top = std::make_unique<Vtop>();
    Vtop& board = *top;
    board.rx = 1;
    for (int i = 0; i < 8; ++i) {
        board.rst = i < 4;
        board.clk = i & 1;
        board.eval();
    }
    board.rst = 0;
    std::printf("%s\n", ptsname(line));
    std::fflush(stdout);

    pollfd watched[2] = {{line, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    for (int quiet = 0, until_look = 0;; ++quiet) {
        if (!sender.quiet() || !receiver.quiet() || board.busy) quiet = 0;
        if (sender.quiet() && --until_look <= 0) {
            until_look = look_cycles;
            if (poll(watched, 2, quiet > settle_cycles ? -1 : 0) > 0) {
                char end;
                if (watched[1].revents && read(STDIN_FILENO, &end, 1) <= 0) break;
                uint8_t bytes[4096];
                const ssize_t count = watched[0].revents & POLLIN ? read(line, bytes, sizeof bytes) : 0;
                if (count > 0) {
                    sender.bytes.insert(sender.bytes.end(), bytes, bytes + count);
                    quiet = 0;
                }
            }
        }
        board.rx = sender.cycle();
        board.clk = 1;
        board.eval();
        board.clk = 0;
        board.eval();
        uint8_t byte;
        if (receiver.cycle(board.tx, byte) && write(line, &byte, 1) != 1) return fail("line");
    }
    board.final();
    return 0;
}
