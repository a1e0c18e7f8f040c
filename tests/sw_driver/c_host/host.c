/* Runs a program on a device behind the link protocol (sw_driver/links/protocol.py): lacuna.c with access functions
 * that go over a Unix socket.
 *
 *     host SOCKET interrupt|poll|feeds MEMORY_BYTES
 *
 * Inputs come on stdin, one run's after another's; outputs go to stdout; what happened goes to stderr, the status is
 * the exit status. `feeds` only writes the inputs of one run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lacuna.h"
#include "program.h"

enum { READ_REGISTER = 1, WRITE_REGISTER, READ_MEMORY, WRITE_MEMORY, WAIT_INTERRUPT };
enum { OK, TIMEOUT };

static int exactly(int out, int file, void *data, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t part = out ? write(file, (char *)data + done, bytes - done) : read(file, (char *)data + done, bytes - done);
        if (part <= 0)
            return -1;
        done += (size_t)part;
    }
    return 0;
}

/* One request; the reply's code, or -1. `first` gets the reply's, `result` its payload of `result_bytes`. */
static int request(void *context, uint32_t code, uint64_t *first, uint64_t second, const void *data, size_t bytes,
                   void *result, size_t result_bytes)
{
    int file = *(int *)context;
    struct { uint32_t code, bytes; uint64_t first, second; } header = {code, (uint32_t)bytes, *first, second};
    if (exactly(1, file, &header, sizeof header) || (bytes && exactly(1, file, (void *)(uintptr_t)data, bytes)))
        return -1;
    if (exactly(0, file, &header, sizeof header))
        return -1;
    if (header.code > TIMEOUT || header.bytes != result_bytes) {
        char text[1024] = "";
        exactly(0, file, text, header.bytes < sizeof text ? header.bytes : sizeof text - 1);
        fprintf(stderr, "link: %s\n", text);
        return -1;
    }
    *first = header.first;
    if (result_bytes && exactly(0, file, result, result_bytes))
        return -1;
    return (int)header.code;
}

static int read_register(void *context, uint32_t offset, uint32_t *value)
{
    uint64_t first = offset;
    int reply = request(context, READ_REGISTER, &first, 0, NULL, 0, NULL, 0);
    *value = (uint32_t)first;
    return reply;
}

static int write_register(void *context, uint32_t offset, uint32_t value)
{
    uint64_t first = offset;
    return request(context, WRITE_REGISTER, &first, value, NULL, 0, NULL, 0);
}

static int read_memory(void *context, uint64_t address, void *data, size_t bytes)
{
    return request(context, READ_MEMORY, &address, bytes, NULL, 0, data, bytes);
}

static int write_memory(void *context, uint64_t address, const void *data, size_t bytes)
{
    return request(context, WRITE_MEMORY, &address, 0, data, bytes, NULL, 0);
}

static int wait_interrupt(void *context, uint32_t cycles)
{
    uint64_t first = cycles;
    int reply = request(context, WAIT_INTERRUPT, &first, 0, NULL, 0, NULL, 0);
    return reply == TIMEOUT ? LACUNA_NO_INTERRUPT : reply;
}

static lacuna_status run(lacuna_device *device, int feeds_only)
{
    void *inputs[8], *outputs[8];
    for (uint32_t i = 0; i < program.input_count; i++)
        inputs[i] = malloc(program.inputs[i].bytes);
    for (uint32_t i = 0; i < program.output_count; i++)
        outputs[i] = malloc(program.outputs[i].bytes);
    lacuna_status status = LACUNA_OK;
    while (status == LACUNA_OK) {
        for (uint32_t i = 0; i < program.input_count; i++)
            if (exactly(0, STDIN_FILENO, inputs[i], program.inputs[i].bytes))
                return LACUNA_OK; /* no more */
        if (feeds_only)
            return lacuna_write_inputs(device, (const void *const *)inputs);
        status = lacuna_run(device, (const void *const *)inputs, outputs);
        if (status == LACUNA_OK) {
            fprintf(stderr, "cycles %lu\n", (unsigned long)device->cycles);
            for (uint32_t i = 0; i < program.output_count; i++)
                if (exactly(1, STDOUT_FILENO, outputs[i], program.outputs[i].bytes))
                    return LACUNA_ACCESS_FAILED;
        }
    }
    return status;
}

int main(int count, char **arguments)
{
    if (count != 4)
        return 100;
    int file = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
    if (connect(file, (struct sockaddr *)&address, sizeof address))
        return 101;
    lacuna_access access = {read_register, write_register, read_memory, write_memory, wait_interrupt};
    if (!strcmp(arguments[2], "poll"))
        access.wait_interrupt = NULL;
    lacuna_device device;
    lacuna_status status = lacuna_init(&device, &access, &file, 8, strtoul(arguments[3], NULL, 0) - 8);
    if (status == LACUNA_OK)
        status = lacuna_load(&device, &program);
    if (status == LACUNA_OK)
        status = run(&device, !strcmp(arguments[2], "feeds"));
    fprintf(stderr, "status %d: %s (error %lu, command %lu, address %#lx)\n", status, lacuna_message(&device, status),
            (unsigned long)device.error, (unsigned long)device.error_command, (unsigned long)device.error_address);
    close(file);
    return (int)status;
}
