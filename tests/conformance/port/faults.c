/* faults.c: see faults.h. */
#include "faults.h"

#ifdef _WIN32

#undef WSASocketW
#undef PostQueuedCompletionStatus
#undef SetFileCompletionNotificationModes
#undef setsockopt

struct faults faults;

static bool due(uint32_t *count) {
    for (uint32_t left; (left = u32_load(count)) > 0;)
        if (u32_swap_if(count, left, left - 1)) return true;
    return false;
}

SOCKET WSAAPI faults_WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *provider, GROUP group, DWORD flags) {
    if (!due(&faults.sockets)) return WSASocketW(family, type, protocol, provider, group, flags);
    WSASetLastError(WSAEMFILE);
    return INVALID_SOCKET;
}

BOOL WINAPI faults_PostQueuedCompletionStatus(HANDLE port, DWORD bytes, ULONG_PTR key, OVERLAPPED *overlapped) {
    if (!due(&faults.posts)) return PostQueuedCompletionStatus(port, bytes, key, overlapped);
    SetLastError(ERROR_NO_SYSTEM_RESOURCES);
    return FALSE;
}

BOOL WINAPI faults_SetFileCompletionNotificationModes(HANDLE handle, UCHAR modes) {
    if (!faults.no_skip) return SetFileCompletionNotificationModes(handle, modes);
    SetLastError(ERROR_INVALID_PARAMETER);
    return FALSE;
}

int WSAAPI faults_setsockopt(SOCKET handle, int level, int name, const char *value, int bytes) {
    if (name != SO_UPDATE_ACCEPT_CONTEXT || level != SOL_SOCKET || !due(&faults.contexts))
        return setsockopt(handle, level, name, value, bytes);
    WSASetLastError(WSAENOTCONN);
    return SOCKET_ERROR;
}

#else

#undef syscall

#include "platform.h"

#include <stdarg.h>

struct faults faults;

long faults_syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) arguments[i] = va_arg(list, long); /* as syscall itself does, however many there are */
    va_end(list);
    if (number == SYS_io_uring_enter && u32_load(&faults.takes_nothing)) arguments[1] = 0;
    return syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

#endif
