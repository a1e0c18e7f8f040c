/* Registers of the Lacuna neural processor: 32 bits each, at byte offsets from its base address.
 * Written by hw/delivery/c_header.py from hw/contract/registers.py: change it there. */
#ifndef LACUNA_REGISTERS_H
#define LACUNA_REGISTERS_H

#define LACUNA_ID_VALUE       0x414E434Cu /* what ID reads */
#define LACUNA_FORMAT_VERSION 6u          /* what FORMAT reads */
#define LACUNA_ADDRESS_BYTES  0x200u      /* address space of the registers */
#define LACUNA_COMMAND_BYTES  128u        /* bytes of a command */
#define LACUNA_RECORD_BYTES   64u         /* bytes of a record */
#define LACUNA_MASK_WORD_BITS 64u         /* pixels in a word of a decision mask */
#define LACUNA_WINDOWS        4u          /* address windows */

/* Byte offsets. */
#define LACUNA_REG_ID                 0x000u /* read: ID */
#define LACUNA_REG_FORMAT             0x004u /* read: FORMAT_VERSION of the commands and layouts that the device reads */
#define LACUNA_REG_CONFIG             0x008u /* read: Config.hash of the device */
#define LACUNA_REG_CONTROL            0x00Cu /* write: Control bits */
#define LACUNA_REG_STATUS             0x010u /* read: Status bits */
#define LACUNA_REG_INTERRUPT_ENABLE   0x014u /* read and write: 1: the interrupt line follows Status.INTERRUPT */
#define LACUNA_REG_ERROR_CODE         0x018u /* read: Error of the last program */
#define LACUNA_REG_ERROR_COMMAND      0x01Cu /* read: index of the command that failed, BEGIN being 0 */
#define LACUNA_REG_ERROR_ADDRESS      0x020u /* read: low 32 bits of the byte address, or the offset, that failed */
#define LACUNA_REG_PROGRAM            0x024u /* read and write: offset of the BEGIN command in window IMAGE; a multiple of 8 */
#define LACUNA_REG_WATCHDOG           0x028u /* read and write: cycles without progress after which the device stops; 0: never */
#define LACUNA_REG_CYCLES             0x02Cu /* read: cycles from doorbell to interrupt; running while busy */
#define LACUNA_REG_COMPLETED          0x030u /* read: commands completed (records written) since the doorbell */
#define LACUNA_REG_DISPATCHED         0x034u /* read: commands fetched and sent to an engine since the doorbell */
#define LACUNA_REG_LOAD_COMMAND       0x040u /* read: index of the load engine's running command; all ones: idle */
#define LACUNA_REG_STORE_COMMAND      0x044u /* read: index of the store engine's running command; all ones: idle */
#define LACUNA_REG_CONV_COMMAND       0x048u /* read: index of the conv engine's running command; all ones: idle */
#define LACUNA_REG_VECTOR_COMMAND     0x04Cu /* read: index of the vector engine's running command; all ones: idle */
#define LACUNA_REG_WINDOW0_BASE       0x080u /* read and write: window 0: first byte address, low 32 bits; a multiple of 8 */
#define LACUNA_REG_WINDOW0_BASE_HIGH  0x084u /* read and write: window 0: first byte address, high bits */
#define LACUNA_REG_WINDOW0_SIZE       0x088u /* read and write: window 0: bytes; a multiple of 8 */
#define LACUNA_REG_WINDOW0_PERMISSION 0x08Cu /* read and write: window 0: Permission bits */
#define LACUNA_REG_WINDOW1_BASE       0x090u /* read and write: window 1: first byte address, low 32 bits; a multiple of 8 */
#define LACUNA_REG_WINDOW1_BASE_HIGH  0x094u /* read and write: window 1: first byte address, high bits */
#define LACUNA_REG_WINDOW1_SIZE       0x098u /* read and write: window 1: bytes; a multiple of 8 */
#define LACUNA_REG_WINDOW1_PERMISSION 0x09Cu /* read and write: window 1: Permission bits */
#define LACUNA_REG_WINDOW2_BASE       0x0A0u /* read and write: window 2: first byte address, low 32 bits; a multiple of 8 */
#define LACUNA_REG_WINDOW2_BASE_HIGH  0x0A4u /* read and write: window 2: first byte address, high bits */
#define LACUNA_REG_WINDOW2_SIZE       0x0A8u /* read and write: window 2: bytes; a multiple of 8 */
#define LACUNA_REG_WINDOW2_PERMISSION 0x0ACu /* read and write: window 2: Permission bits */
#define LACUNA_REG_WINDOW3_BASE       0x0B0u /* read and write: window 3: first byte address, low 32 bits; a multiple of 8 */
#define LACUNA_REG_WINDOW3_BASE_HIGH  0x0B4u /* read and write: window 3: first byte address, high bits */
#define LACUNA_REG_WINDOW3_SIZE       0x0B8u /* read and write: window 3: bytes; a multiple of 8 */
#define LACUNA_REG_WINDOW3_PERMISSION 0x0BCu /* read and write: window 3: Permission bits */

/* Bits of CONTROL; each acts when written as one. */
#define LACUNA_CONTROL_START       1u /* the doorbell: fetch and run the program at PROGRAM; ignored while busy */
#define LACUNA_CONTROL_SOFT_RESET  2u /* stop all engines, end the bus transactions under way, clear error and interrupt */
#define LACUNA_CONTROL_ACKNOWLEDGE 4u /* clear the interrupt */

/* Bits of STATUS. */
#define LACUNA_STATUS_BUSY      1u /* from the doorbell, or a soft reset, until the device can take the next doorbell */
#define LACUNA_STATUS_DONE      2u /* the last program ran to its END */
#define LACUNA_STATUS_ERROR     4u /* the last program ended with ERROR_CODE; stays until START or SOFT_RESET */
#define LACUNA_STATUS_INTERRUPT 8u /* the interrupt is raised: set with DONE or ERROR, cleared by ACKNOWLEDGE, START, SOFT_RESET */

/* Bits of a window's PERMISSION; zero, as after reset, denies everything. */
#define LACUNA_PERMISSION_READ  1u
#define LACUNA_PERMISSION_WRITE 2u

/* Values of ERROR_CODE. */
#define LACUNA_ERROR_NONE           0u
#define LACUNA_ERROR_BAD_IMAGE      1u  /* the program does not start with BEGIN and MAGIC */
#define LACUNA_ERROR_WRONG_FORMAT   2u  /* the image has another format version */
#define LACUNA_ERROR_WRONG_CONFIG   3u  /* the image was built for another configuration */
#define LACUNA_ERROR_BAD_OPCODE     4u  /* unknown opcode, or BEGIN after the start */
#define LACUNA_ERROR_BAD_COMMAND    5u  /* a field outside its limits */
#define LACUNA_ERROR_WINDOW_READ    6u  /* a read outside its window, or one that its window does not permit */
#define LACUNA_ERROR_WINDOW_WRITE   7u  /* a write outside its window, or one that its window does not permit */
#define LACUNA_ERROR_BUS_READ       8u  /* the bus answered a read with an error */
#define LACUNA_ERROR_BUS_WRITE      9u  /* the bus answered a write with an error */
#define LACUNA_ERROR_WATCHDOG       10u /* no command completed and no data moved for WATCHDOG cycles */
#define LACUNA_ERROR_WEIGHT_STREAM  11u /* a corrupt weight stream */
#define LACUNA_ERROR_TOKEN_OVERFLOW 12u /* a token counter would have passed its limit */
#define LACUNA_ERROR_NOT_RESIDENT   13u /* the program requires a tag that does not stand */

/* What the address windows are for, by the driver's convention. */
#define LACUNA_WINDOW_IMAGE  0u /* program, weights, constants: read */
#define LACUNA_WINDOW_INPUT  1u /* input feature maps and masks: read */
#define LACUNA_WINDOW_OUTPUT 2u /* output feature maps: write */
#define LACUNA_WINDOW_RECORD 3u /* records; the sequencer writes them to this window */

#endif
