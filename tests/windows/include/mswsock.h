/* Microsoft's mswsock.h does not include what it needs; mingw's does, so that a wrong order would be seen on Windows alone. */
#ifndef _WINSOCK2API_
#error "winsock2.h comes before mswsock.h"
#endif
#include_next <mswsock.h>
