/* proxy.h: the header of the PROXY protocol, with which a balancer says whose connection it passes on: version 1 in text, version
 * 2 in binary form. See proxy-protocol.txt of HAProxy.
 *
 * Pure functions over bytes: they allocate nothing and keep nothing.
 */
#ifndef IOCPD_PROXY_H
#define IOCPD_PROXY_H

#include "platform.h"

/* With so many bytes of a header there is always an answer: a line of version 1 is no longer, and of version 2 the addresses are
 * shorter. What follows these is skipped by its length, so it need not be kept. */
enum { PROXY_BYTES_KEPT = 107 };

struct proxy_header {
    uint32_t bytes;                 /* of the whole header, which may be more than have come */
    bool has_client;                /* false: the balancer speaks for itself, or does not say for whom */
    struct platform_address client; /* if it has one */
};

enum proxy_answer {
    PROXY_MORE, /* this may become a header */
    PROXY_HEADER,
    PROXY_INVALID,
};

/* `data` is how a connection begins, and may go on behind the header. `header` is set for PROXY_HEADER alone. */
enum proxy_answer proxy_parse(const uint8_t *data, uint32_t bytes, struct proxy_header *header);

#endif
