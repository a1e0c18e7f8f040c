/* Driver of the Lacuna neural processor: see lacuna.h. Layouts are those of hw/contract/layouts.py. */
#include "lacuna.h"

/* Bytes that go to or come from external memory at a time; on the stack. A multiple of 8. */
#ifndef LACUNA_CHUNK_BYTES
#define LACUNA_CHUNK_BYTES 256u
#endif

/* Reads of STATUS, without the interrupt, or after a soft reset, until the device is called dead. */
#ifndef LACUNA_POLLS
#define LACUNA_POLLS 100000000u
#endif
#ifndef LACUNA_RESET_POLLS
#define LACUNA_RESET_POLLS 10000u
#endif

/* Windows start at multiples of this in external memory. */
#define WINDOW_ALIGNMENT 64u

/* Byte offset of a register of a window. */
#define WINDOW_STRIDE (LACUNA_REG_WINDOW1_BASE - LACUNA_REG_WINDOW0_BASE)
#define WINDOW_REGISTER(window, part) (LACUNA_REG_WINDOW0_##part + (window) * WINDOW_STRIDE)

/* Leaves the function with a failure. */
#define TRY(call) do { lacuna_status tried = (call); if (tried != LACUNA_OK) return tried; } while (0)

static uint64_t align(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* ---- access ---------------------------------------------------------------------------------------------------- */

static lacuna_status get(lacuna_device *device, uint32_t offset, uint32_t *value)
{
    return device->access->read_register(device->context, offset, value) ? LACUNA_ACCESS_FAILED : LACUNA_OK;
}

static lacuna_status set(lacuna_device *device, uint32_t offset, uint32_t value)
{
    return device->access->write_register(device->context, offset, value) ? LACUNA_ACCESS_FAILED : LACUNA_OK;
}

/* Bytes on their way to or from a region of external memory. */
typedef struct stream {
    lacuna_device *device;
    uint64_t address; /* of the first byte of `data` */
    uint32_t used;    /* bytes of `data` that were put, or taken */
    uint32_t put;     /* bytes put since open */
    lacuna_status status;
    uint8_t data[LACUNA_CHUNK_BYTES];
} stream;

static void stream_open(stream *s, lacuna_device *device, uint64_t address)
{
    s->device = device;
    s->address = address;
    s->used = 0;
    s->put = 0;
    s->status = LACUNA_OK;
}

static void stream_flush(stream *s)
{
    while (s->used % 8)
        s->data[s->used++] = 0;
    if (s->used && s->status == LACUNA_OK
        && s->device->access->write_memory(s->device->context, s->address, s->data, s->used))
        s->status = LACUNA_ACCESS_FAILED;
    s->address += s->used;
    s->used = 0;
}

static void stream_put(stream *s, uint8_t byte)
{
    s->data[s->used++] = byte;
    s->put++;
    if (s->used == LACUNA_CHUNK_BYTES)
        stream_flush(s);
}

/* The next byte of a region of `left` bytes, rounded up to a multiple of 8, that was opened for reading. */
static uint8_t stream_take(stream *s, uint64_t left)
{
    if (s->used == 0) {
        uint64_t rounded = align(left, 8);
        size_t bytes = rounded < LACUNA_CHUNK_BYTES ? (size_t)rounded : LACUNA_CHUNK_BYTES;
        if (s->status == LACUNA_OK && s->device->access->read_memory(s->device->context, s->address, s->data, bytes))
            s->status = LACUNA_ACCESS_FAILED;
        s->address += bytes;
    }
    uint8_t byte = s->data[s->used++];
    if (s->used == LACUNA_CHUNK_BYTES)
        s->used = 0;
    return byte;
}

/* ---- inputs ---------------------------------------------------------------------------------------------------- */

static void put_blocked(stream *s, const lacuna_feed *feed, uint32_t lanes, const int8_t *tensor)
{
    uint32_t channels = (uint32_t)feed->channels;
    uint32_t spare = (uint32_t)(align(channels, lanes) - channels);
    uint32_t pixels = (uint32_t)feed->height * (uint32_t)feed->width;
    for (uint32_t pixel = 0; pixel < pixels; pixel++) {
        for (uint32_t c = 0; c < channels; c++)
            stream_put(s, (uint8_t)*tensor++);
        for (uint32_t c = 0; c < spare; c++)
            stream_put(s, (uint8_t)feed->zero_point);
    }
    while (s->put < feed->length)
        stream_put(s, 0);
}

static void put_packed(stream *s, const lacuna_feed *feed, const int8_t *tensor)
{
    uint32_t first = (uint32_t)(feed->pad_left * feed->channels);
    uint32_t bytes = (uint32_t)(feed->width * feed->channels);
    for (int32_t y = -feed->pad_top; y < feed->height + feed->pad_bottom; y++) {
        int inside = y >= 0 && y < feed->height;
        for (uint32_t i = 0; i < feed->row_bytes; i++) {
            int here = inside && i >= first && i < first + bytes;
            stream_put(s, (uint8_t)(here ? *tensor++ : feed->zero_point));
        }
    }
    while (s->put < feed->length)
        stream_put(s, (uint8_t)feed->zero_point);
}

/* Whether a position of a mask is demanded, after the first `steps` of its convolutions. It is when some demanded
 * output of the last of them reads it; the depth of the recursion is demand_count. */
static int demanded(const lacuna_feed *feed, const uint8_t *mask, uint32_t steps, int32_t y, int32_t x)
{
    if (steps == 0)
        return (mask[y * feed->width + x] != 0) != (feed->invert != 0);
    const lacuna_demand *step = &feed->demand[steps - 1];
    int32_t height = steps == 1 ? feed->height : step[-1].height;
    int32_t width = steps == 1 ? feed->width : step[-1].width;
    for (int32_t ky = 0; ky < step->kernel_height; ky++) {
        int32_t above = y + step->pad_top - ky * step->dilation_y;
        if (above < 0 || above % step->stride_y || above / step->stride_y >= height)
            continue;
        for (int32_t kx = 0; kx < step->kernel_width; kx++) {
            int32_t before = x + step->pad_left - kx * step->dilation_x;
            if (before < 0 || before % step->stride_x || before / step->stride_x >= width)
                continue;
            if (demanded(feed, mask, steps - 1, above / step->stride_y, before / step->stride_x))
                return 1;
        }
    }
    return 0;
}

static void put_mask(stream *s, const lacuna_feed *feed, const uint8_t *mask)
{
    const lacuna_demand *last = feed->demand_count ? &feed->demand[feed->demand_count - 1] : NULL;
    int32_t height = last ? last->height : feed->height;
    int32_t width = last ? last->width : feed->width;
    int32_t padded = (int32_t)align((uint64_t)width, LACUNA_MASK_WORD_BITS);
    for (int32_t y = 0; y < height; y++) {
        for (int32_t x = 0; x < padded; x += 8) {
            unsigned byte = 0;
            for (int32_t bit = 0; bit < 8 && x + bit < width; bit++)
                if (demanded(feed, mask, feed->demand_count, y, x + bit))
                    byte |= 1u << bit;
            stream_put(s, (uint8_t)byte);
        }
    }
    while (s->put < feed->length)
        stream_put(s, 0);
}

lacuna_status lacuna_write_inputs(lacuna_device *device, const void *const *inputs)
{
    const lacuna_program *program = device->program;
    if (!program)
        return LACUNA_NOT_LOADED;
    for (uint32_t i = 0; i < program->feed_count; i++) {
        const lacuna_feed *feed = &program->feeds[i];
        const void *tensor = inputs[feed->input];
        stream s;
        stream_open(&s, device, device->windows[LACUNA_WINDOW_INPUT] + feed->offset);
        if (feed->layout == LACUNA_MASK)
            put_mask(&s, feed, (const uint8_t *)tensor);
        else if (feed->layout == LACUNA_PACKED)
            put_packed(&s, feed, (const int8_t *)tensor);
        else
            put_blocked(&s, feed, program->lanes, (const int8_t *)tensor);
        stream_flush(&s);
        TRY(s.status);
    }
    return LACUNA_OK;
}

/* ---- outputs --------------------------------------------------------------------------------------------------- */

lacuna_status lacuna_read_outputs(lacuna_device *device, void *const *outputs)
{
    const lacuna_program *program = device->program;
    if (!program)
        return LACUNA_NOT_LOADED;
    for (uint32_t i = 0; i < program->result_count; i++) {
        const lacuna_result *result = &program->results[i];
        uint8_t *tensor = (uint8_t *)outputs[result->output];
        uint32_t channels = (uint32_t)result->channels;
        uint32_t padded = (uint32_t)align(channels, program->lanes);
        uint32_t pixels = (uint32_t)result->height * (uint32_t)result->width;
        uint64_t left = (uint64_t)pixels * padded;
        stream s;
        stream_open(&s, device, device->windows[LACUNA_WINDOW_OUTPUT] + result->offset);
        for (uint32_t pixel = 0; pixel < pixels; pixel++) {
            for (uint32_t c = 0; c < padded; c++, left--) {
                uint8_t byte = stream_take(&s, left);
                if (c < channels)
                    *tensor++ = byte;
            }
        }
        TRY(s.status);
    }
    return LACUNA_OK;
}

/* ---- the device ------------------------------------------------------------------------------------------------ */

lacuna_status lacuna_init(lacuna_device *device, const lacuna_access *access, void *context, uint64_t memory_base,
                          uint64_t memory_bytes)
{
    uint32_t id, format;
    uint64_t base = align(memory_base, WINDOW_ALIGNMENT);
    device->access = access;
    device->context = context;
    device->memory_base = base;
    device->memory_bytes = memory_bytes > base - memory_base ? memory_bytes - (base - memory_base) : 0;
    device->config_hash = 0;
    device->program = NULL;
    device->timeout_cycles = 0;
    device->cycles = device->loading_cycles = 0;
    device->weights_stand = 0;
    device->error = device->error_command = device->error_address = 0;
    TRY(get(device, LACUNA_REG_ID, &id));
    if (id != LACUNA_ID_VALUE)
        return LACUNA_NO_DEVICE;
    TRY(get(device, LACUNA_REG_FORMAT, &format));
    if (format != LACUNA_FORMAT_VERSION)
        return LACUNA_WRONG_FORMAT;
    return get(device, LACUNA_REG_CONFIG, &device->config_hash);
}

static uint64_t window_bytes(const lacuna_program *program, uint32_t window)
{
    uint32_t records = program->loading_commands;
    if (records < program->command_count)
        records = program->command_count;
    switch (window) {
    case LACUNA_WINDOW_IMAGE: return align(program->image_bytes, 8);
    case LACUNA_WINDOW_INPUT: return align(program->input_bytes, 8);
    case LACUNA_WINDOW_OUTPUT: return align(program->output_bytes, 8);
    default: return (uint64_t)records * LACUNA_RECORD_BYTES;
    }
}

static uint32_t permission(const lacuna_program *program, uint32_t window)
{
    if (window == LACUNA_WINDOW_IMAGE || window == LACUNA_WINDOW_INPUT)
        return LACUNA_PERMISSION_READ;
    if (window == LACUNA_WINDOW_OUTPUT && program->reads_output)
        return LACUNA_PERMISSION_READ | LACUNA_PERMISSION_WRITE;
    return LACUNA_PERMISSION_WRITE;
}

uint64_t lacuna_memory_needed(const lacuna_program *program)
{
    uint64_t bytes = 0;
    for (uint32_t window = 0; window < LACUNA_WINDOWS; window++)
        bytes += align(window_bytes(program, window), WINDOW_ALIGNMENT);
    return bytes;
}

static lacuna_status write_image(lacuna_device *device, const lacuna_program *program)
{
    uint64_t base = device->windows[LACUNA_WINDOW_IMAGE];
    uint32_t whole = program->image_bytes / 8 * 8;
    stream rest;
    if (whole && device->access->write_memory(device->context, base, program->image, whole))
        return LACUNA_ACCESS_FAILED;
    stream_open(&rest, device, base + whole);
    for (uint32_t i = whole; i < program->image_bytes; i++)
        stream_put(&rest, program->image[i]);
    stream_flush(&rest);
    return rest.status;
}

lacuna_status lacuna_load(lacuna_device *device, const lacuna_program *program)
{
    uint64_t at = device->memory_base;
    device->program = NULL;
    if (program->format_version != LACUNA_FORMAT_VERSION)
        return LACUNA_WRONG_FORMAT;
    if (program->config_hash != device->config_hash)
        return LACUNA_WRONG_CONFIG;
    if (lacuna_memory_needed(program) > device->memory_bytes)
        return LACUNA_NO_MEMORY;
    TRY(lacuna_reset(device));
    for (uint32_t window = 0; window < LACUNA_WINDOWS; window++) {
        uint64_t bytes = window_bytes(program, window);
        device->windows[window] = at;
        TRY(set(device, WINDOW_REGISTER(window, BASE), (uint32_t)at));
        TRY(set(device, WINDOW_REGISTER(window, BASE_HIGH), (uint32_t)(at >> 32)));
        TRY(set(device, WINDOW_REGISTER(window, SIZE), (uint32_t)bytes));
        TRY(set(device, WINDOW_REGISTER(window, PERMISSION), permission(program, window)));
        at = align(at + bytes, WINDOW_ALIGNMENT);
    }
    TRY(write_image(device, program));
    device->timeout_cycles = program->timeout_cycles;
    device->program = program;
    return LACUNA_OK;
}

lacuna_status lacuna_reset(lacuna_device *device)
{
    uint32_t status = LACUNA_STATUS_BUSY;
    device->weights_stand = 0;
    TRY(set(device, LACUNA_REG_CONTROL, LACUNA_CONTROL_SOFT_RESET));
    for (uint32_t poll = 0; poll < LACUNA_RESET_POLLS; poll++) {
        TRY(get(device, LACUNA_REG_STATUS, &status));
        if (!(status & LACUNA_STATUS_BUSY))
            return LACUNA_OK;
    }
    return LACUNA_STUCK;
}

/* ---- a run ----------------------------------------------------------------------------------------------------- */

/* Start the program at an offset of the image. */
static lacuna_status start_at(lacuna_device *device, uint32_t offset)
{
    device->error = LACUNA_ERROR_NONE;
    TRY(set(device, LACUNA_REG_PROGRAM, offset));
    TRY(set(device, LACUNA_REG_INTERRUPT_ENABLE, device->access->wait_interrupt ? 1 : 0));
    return set(device, LACUNA_REG_CONTROL, LACUNA_CONTROL_START);
}

/* Without an interrupt line: CYCLES, which runs while the device is busy, is the clock of the time-out. */
static lacuna_status poll_status(lacuna_device *device, uint32_t timeout_cycles)
{
    for (uint32_t poll = 0; poll < LACUNA_POLLS; poll++) {
        uint32_t status, cycles;
        TRY(get(device, LACUNA_REG_STATUS, &status));
        if (status & LACUNA_STATUS_INTERRUPT)
            return LACUNA_OK;
        TRY(get(device, LACUNA_REG_CYCLES, &cycles));
        if (cycles >= timeout_cycles)
            break;
    }
    return LACUNA_TIMEOUT;
}

static lacuna_status wait_interrupt(lacuna_device *device, uint32_t timeout_cycles)
{
    if (!device->access->wait_interrupt)
        return poll_status(device, timeout_cycles);
    switch (device->access->wait_interrupt(device->context, timeout_cycles)) {
    case 0: return LACUNA_OK;
    case LACUNA_NO_INTERRUPT: return LACUNA_TIMEOUT;
    default: return LACUNA_ACCESS_FAILED;
    }
}

/* Wait for the end of what was started, well or not. */
static lacuna_status finish(lacuna_device *device, uint32_t timeout_cycles)
{
    uint32_t status;
    lacuna_status waited = wait_interrupt(device, timeout_cycles);
    if (waited == LACUNA_ACCESS_FAILED)
        return waited;
    TRY(get(device, LACUNA_REG_CYCLES, &device->cycles));
    TRY(get(device, LACUNA_REG_STATUS, &status));
    if (waited == LACUNA_OK)
        TRY(set(device, LACUNA_REG_CONTROL, LACUNA_CONTROL_ACKNOWLEDGE));
    if (status & LACUNA_STATUS_ERROR) {
        TRY(get(device, LACUNA_REG_ERROR_CODE, &device->error));
        TRY(get(device, LACUNA_REG_ERROR_COMMAND, &device->error_command));
        TRY(get(device, LACUNA_REG_ERROR_ADDRESS, &device->error_address));
        TRY(lacuna_reset(device));
        return LACUNA_DEVICE_ERROR;
    }
    if (waited == LACUNA_OK && (status & LACUNA_STATUS_DONE))
        return LACUNA_OK;
    TRY(lacuna_reset(device));
    return LACUNA_TIMEOUT;
}

lacuna_status lacuna_load_weights(lacuna_device *device)
{
    const lacuna_program *program = device->program;
    if (!program)
        return LACUNA_NOT_LOADED;
    if (!program->loading_commands || device->weights_stand)
        return LACUNA_OK;
    TRY(start_at(device, program->loading_offset));
    TRY(finish(device, program->loading_timeout_cycles));
    device->loading_cycles = device->cycles;
    device->weights_stand = 1;
    return LACUNA_OK;
}

lacuna_status lacuna_start(lacuna_device *device)
{
    TRY(lacuna_load_weights(device));
    return start_at(device, 0);
}

lacuna_status lacuna_wait(lacuna_device *device)
{
    return finish(device, device->timeout_cycles);
}

lacuna_status lacuna_run(lacuna_device *device, const void *const *inputs, void *const *outputs)
{
    int stood = device->weights_stand;
    lacuna_status status;
    TRY(lacuna_write_inputs(device, inputs));
    TRY(lacuna_start(device));
    status = lacuna_wait(device);
    if (stood && status == LACUNA_DEVICE_ERROR && device->error == LACUNA_ERROR_NOT_RESIDENT) {
        TRY(lacuna_start(device)); /* someone else used the device */
        status = lacuna_wait(device);
    }
    TRY(status);
    return lacuna_read_outputs(device, outputs);
}

/* ---- messages -------------------------------------------------------------------------------------------------- */

static const char *error_message(uint32_t error)
{
    switch (error) {
    case LACUNA_ERROR_NONE: return "the device reported no error";
    case LACUNA_ERROR_BAD_IMAGE: return "BAD_IMAGE: the program does not start with BEGIN";
    case LACUNA_ERROR_WRONG_FORMAT: return "WRONG_FORMAT: the image has another format version";
    case LACUNA_ERROR_WRONG_CONFIG: return "WRONG_CONFIG: the image was built for another configuration";
    case LACUNA_ERROR_BAD_OPCODE: return "BAD_OPCODE: unknown command";
    case LACUNA_ERROR_BAD_COMMAND: return "BAD_COMMAND: a field outside its limits";
    case LACUNA_ERROR_WINDOW_READ: return "WINDOW_READ: a read that its window does not permit";
    case LACUNA_ERROR_WINDOW_WRITE: return "WINDOW_WRITE: a write that its window does not permit";
    case LACUNA_ERROR_BUS_READ: return "BUS_READ: the bus answered a read with an error";
    case LACUNA_ERROR_BUS_WRITE: return "BUS_WRITE: the bus answered a write with an error";
    case LACUNA_ERROR_WATCHDOG: return "WATCHDOG: no progress";
    case LACUNA_ERROR_WEIGHT_STREAM: return "WEIGHT_STREAM: a corrupt weight stream";
    case LACUNA_ERROR_TOKEN_OVERFLOW: return "TOKEN_OVERFLOW: a token counter would have passed its limit";
    case LACUNA_ERROR_NOT_RESIDENT: return "NOT_RESIDENT: the weights that the program requires are not on the device";
    default: return "the device reported an unknown error";
    }
}

const char *lacuna_message(const lacuna_device *device, lacuna_status status)
{
    switch (status) {
    case LACUNA_OK: return "no error";
    case LACUNA_ACCESS_FAILED: return "the device could not be accessed";
    case LACUNA_NO_DEVICE: return "there is no Lacuna device: ID holds another value";
    case LACUNA_WRONG_FORMAT: return "device, driver and program have different format versions: use one of Lacuna";
    case LACUNA_WRONG_CONFIG: return "the program was compiled for another configuration: compile it for this device";
    case LACUNA_NO_MEMORY: return "the program needs more external memory than lacuna_init was given";
    case LACUNA_NOT_LOADED: return "no program is loaded: lacuna_load comes first";
    case LACUNA_TIMEOUT: return "the device did not finish in time and was reset";
    case LACUNA_DEVICE_ERROR: return error_message(device->error);
    case LACUNA_STUCK: return "the device stays busy after a soft reset";
    default: return "unknown status";
    }
}

/* ---- registers and memory in the processor's address space ------------------------------------------------------- */

static int mapped_read_register(void *context, uint32_t offset, uint32_t *value)
{
    *value = ((const lacuna_mapped *)context)->registers[offset / 4];
    return 0;
}

static int mapped_write_register(void *context, uint32_t offset, uint32_t value)
{
    ((const lacuna_mapped *)context)->registers[offset / 4] = value;
    return 0;
}

static int mapped_read_memory(void *context, uint64_t address, void *data, size_t bytes)
{
    const lacuna_mapped *mapped = (const lacuna_mapped *)context;
    const volatile uint8_t *from = mapped->memory + (address - mapped->memory_address);
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)data)[i] = from[i];
    return 0;
}

static int mapped_write_memory(void *context, uint64_t address, const void *data, size_t bytes)
{
    const lacuna_mapped *mapped = (const lacuna_mapped *)context;
    volatile uint8_t *to = mapped->memory + (address - mapped->memory_address);
    for (size_t i = 0; i < bytes; i++)
        to[i] = ((const uint8_t *)data)[i];
    return 0;
}

const lacuna_access lacuna_mapped_access = {
    mapped_read_register, mapped_write_register, mapped_read_memory, mapped_write_memory, NULL,
};
