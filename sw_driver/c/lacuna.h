/* Driver of the Lacuna neural processor for bare metal: C99, no allocation, no library.
 *
 *     #include "lacuna.h"
 *     #include "digits.h"                      // lacuna compile digits.tflite ... --c-header digits.h
 *
 *     static lacuna_mapped mapped = {(volatile uint32_t *)0x40000000, (volatile uint8_t *)0x80000000, 0x80000000};
 *     lacuna_device device;
 *     const void *inputs[] = {image};          // int8 or bool tensors, in the order of digits.inputs
 *     void *outputs[] = {logits};              // int8 tensors, in the order of digits.outputs
 *     lacuna_status status = lacuna_init(&device, &lacuna_mapped_access, &mapped, 0x80000000, 1 << 20);
 *     if (status == LACUNA_OK) status = lacuna_load(&device, &digits);
 *     if (status == LACUNA_OK) status = lacuna_run(&device, inputs, outputs);
 *     if (status != LACUNA_OK) puts(lacuna_message(&device, status));
 *
 * SOFTMAX is not part of this driver: an output with `softmax` set is given as the SOFTMAX's input, whose largest
 * element is the same. One device is used by one thread at a time.
 */
#ifndef LACUNA_H
#define LACUNA_H

#include <stddef.h>
#include <stdint.h>

#include "lacuna_registers.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lacuna_status {
    LACUNA_OK = 0,
    LACUNA_ACCESS_FAILED,   /* an access function said so */
    LACUNA_NO_DEVICE,       /* ID does not hold LACUNA_ID_VALUE */
    LACUNA_WRONG_FORMAT,    /* device, driver and program are not of the same format version */
    LACUNA_WRONG_CONFIG,    /* the program was compiled for another configuration */
    LACUNA_NO_MEMORY,       /* the program needs more external memory: lacuna_memory_needed */
    LACUNA_NOT_LOADED,      /* lacuna_load comes first, and must have succeeded */
    LACUNA_TIMEOUT,         /* the interrupt did not come; the device was reset */
    LACUNA_DEVICE_ERROR,    /* the device stopped with an error: see `error` in lacuna_device; it was reset */
    LACUNA_STUCK            /* the device stays busy after a soft reset */
} lacuna_status;

/* How the device is reached. All return 0, or anything else when the access failed. `context` is passed through.
 * Memory is the device's external memory: `address` is the device's, addresses and lengths are multiples of 8. What
 * write_memory wrote must be visible to the device when write_register returns; what the device wrote, to read_memory.
 * wait_interrupt may be null: then STATUS is polled. It returns 0 when the interrupt is raised and LACUNA_NO_INTERRUPT
 * when it was not within about `cycles` device cycles. */
#define LACUNA_NO_INTERRUPT 1
typedef struct lacuna_access {
    int (*read_register)(void *context, uint32_t offset, uint32_t *value);
    int (*write_register)(void *context, uint32_t offset, uint32_t value);
    int (*read_memory)(void *context, uint64_t address, void *data, size_t bytes);
    int (*write_memory)(void *context, uint64_t address, const void *data, size_t bytes);
    int (*wait_interrupt)(void *context, uint32_t cycles);
} lacuna_access;

/* Registers and memory as the processor sees them, uncached: the context of lacuna_mapped_access. */
typedef struct lacuna_mapped {
    volatile uint32_t *registers;
    volatile uint8_t *memory;    /* where the processor sees ... */
    uint64_t memory_address;     /* ... this address of the device */
} lacuna_mapped;
extern const lacuna_access lacuna_mapped_access;

/* ---- a compiled program; `lacuna compile --c-header` writes these ------------------------------------------- */

typedef enum lacuna_layout { LACUNA_BLOCKED, LACUNA_PACKED, LACUNA_MASK } lacuna_layout;

typedef struct lacuna_demand { /* a convolution that a mask is taken through; height, width: of its input */
    int32_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_top, pad_left, height, width;
} lacuna_demand;

typedef struct lacuna_feed { /* a region of window INPUT, made from input number `input` */
    uint32_t input;
    lacuna_layout layout;
    uint32_t offset, length, row_bytes;
    int32_t height, width, channels, pad_top, pad_bottom, pad_left, pad_right;
    int8_t zero_point;
    uint8_t invert;
    uint32_t demand_count;
    const lacuna_demand *demand;
} lacuna_feed;

typedef struct lacuna_result { /* a blocked feature map in window OUTPUT: output number `output` */
    uint32_t output, offset;
    int32_t height, width, channels;
} lacuna_result;

typedef struct lacuna_tensor { /* real value = scale * (element - zero_point) */
    const char *name;
    uint32_t bytes; /* one byte per element */
    float scale;
    int32_t zero_point;
    uint8_t softmax; /* an output that is given as the input of a SOFTMAX; scale and zero_point are of that input */
} lacuna_tensor;

typedef struct lacuna_program {
    const char *model, *preset;
    uint32_t format_version, config_hash, lanes;
    uint32_t command_count, input_bytes, output_bytes, image_bytes;
    uint32_t reads_output;   /* whether window OUTPUT is read as well */
    uint32_t timeout_cycles; /* a generous estimate */
    uint32_t loading_offset, loading_commands; /* in the image: the program that brings resident weights; or 0, 0 */
    uint32_t loading_timeout_cycles;
    const uint8_t *image;
    uint32_t input_count, output_count, feed_count, result_count;
    const lacuna_tensor *inputs, *outputs;
    const lacuna_feed *feeds;
    const lacuna_result *results;
} lacuna_program;

/* ---- the device ------------------------------------------------------------------------------------------------ */

typedef struct lacuna_device {
    const lacuna_access *access;
    void *context;
    uint64_t memory_base, memory_bytes;
    uint32_t config_hash;
    const lacuna_program *program; /* null while none is loaded */
    uint64_t windows[LACUNA_WINDOWS];
    uint32_t timeout_cycles; /* of this program; may be changed after lacuna_load */
    uint32_t cycles;         /* of the last run */
    uint32_t loading_cycles; /* of the last loading of resident weights */
    int weights_stand;       /* resident weights of `program` are on the device, as far as is known */
    uint32_t error, error_command, error_address; /* LACUNA_ERROR_... of the last run, and where */
} lacuna_device;

/* Check ID and FORMAT. memory_base, memory_bytes: external memory that the driver may use, addresses of the device. */
lacuna_status lacuna_init(lacuna_device *device, const lacuna_access *access, void *context, uint64_t memory_base,
                          uint64_t memory_bytes);

/* Bytes of external memory that a program needs, from an address that is a multiple of 64. */
uint64_t lacuna_memory_needed(const lacuna_program *program);

/* Reset the device, copy the program's image into external memory, set the windows. `program` must stay where it is. */
lacuna_status lacuna_load(lacuna_device *device, const lacuna_program *program);

/* All of a run: write inputs, start, wait, read outputs. After any failure but LACUNA_STUCK the next run works.
 * Resident weights are loaded before, where they are not there; once more where the device says that they are not. */
lacuna_status lacuna_run(lacuna_device *device, const void *const *inputs, void *const *outputs);

/* The steps of a run, for programs that do something else meanwhile. lacuna_start waits for resident weights to be
 * loaded, where they are not there: call lacuna_load_weights before, to choose when. After LACUNA_ERROR_NOT_RESIDENT
 * start again. */
lacuna_status lacuna_load_weights(lacuna_device *device);
lacuna_status lacuna_write_inputs(lacuna_device *device, const void *const *inputs);
lacuna_status lacuna_start(lacuna_device *device);
lacuna_status lacuna_wait(lacuna_device *device);
lacuna_status lacuna_read_outputs(lacuna_device *device, void *const *outputs);

/* Soft reset, also of a device that is running. */
lacuna_status lacuna_reset(lacuna_device *device);

/* What a status means, in words; for LACUNA_DEVICE_ERROR the device's error. */
const char *lacuna_message(const lacuna_device *device, lacuna_status status);

#ifdef __cplusplus
}
#endif

#endif
