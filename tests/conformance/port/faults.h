/* faults.h: system calls that fail when a test wants them to.
 *
 * Given to the compiler with -include (/FI): it takes in the system's headers first, and then renames the few calls of
 * port_iocp.c and port_uring.c whose failure can't be brought about otherwise.
 */
#ifndef IOCPD_CONFORMANCE_FAULTS_H
#define IOCPD_CONFORMANCE_FAULTS_H

#ifdef _WIN32

#include "platform.h"

/* How many of the next calls fail; atomic. */
struct faults {
    uint32_t sockets;  /* WSASocketW, with WSAEMFILE */
    uint32_t posts;    /* PostQueuedCompletionStatus */
    uint32_t contexts; /* setsockopt(SO_UPDATE_ACCEPT_CONTEXT) */
    bool no_skip;      /* SetFileCompletionNotificationModes, always */
};
extern struct faults faults;

SOCKET WSAAPI faults_WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *provider, GROUP group, DWORD flags);
BOOL WINAPI faults_PostQueuedCompletionStatus(HANDLE port, DWORD bytes, ULONG_PTR key, OVERLAPPED *overlapped);
BOOL WINAPI faults_SetFileCompletionNotificationModes(HANDLE handle, UCHAR modes);
int WSAAPI faults_setsockopt(SOCKET handle, int level, int name, const char *value, int bytes);

#ifndef IOCPD_CONFORMANCE_NO_RENAME
#define WSASocketW faults_WSASocketW
#define PostQueuedCompletionStatus faults_PostQueuedCompletionStatus
#define SetFileCompletionNotificationModes faults_SetFileCompletionNotificationModes
#define setsockopt faults_setsockopt
#endif

#else

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct faults {
    uint32_t takes_nothing; /* atomic: io_uring_enter takes no entry off the queue, as without memory */
};
extern struct faults faults;

long faults_syscall(long number, ...);

#ifndef IOCPD_CONFORMANCE_NO_RENAME
#define syscall faults_syscall
#endif

#endif

#endif
