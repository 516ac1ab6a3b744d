/* service.exe DRAIN_MS STATUS [WORD...]: what the launcher starts in tests. It becomes ready, waits for the stop event, takes
 * so long to drain, and exits with STATUS. Words: "exit" leaves at once; "late" is ready after a second; "deaf" does not stop;
 * "leave" first starts a process that would outlive it; "file=PATH" also writes what it says there. */
#include <windows.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *copy;

static void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vfprintf(stdout, format, values);
    va_end(values);
    fputc('\n', stdout);
    fflush(stdout);
    if (!copy) return;
    va_start(values, format);
    vfprintf(copy, format, values);
    va_end(values);
    fputc('\n', copy);
    fflush(copy);
}

static BOOL WINAPI on_console_event(DWORD event) {
    say("console event %lu", event); /* none may come here */
    return TRUE;
}

static HANDLE open_event(const char *variable, DWORD access) {
    const char *name = getenv(variable);
    HANDLE event = name ? OpenEventA(access, FALSE, name) : NULL;
    if (!event) {
        say("no event %s", variable);
        exit(90);
    }
    return event;
}

static void leave_one(const char *self) {
    STARTUPINFOA start = {.cb = sizeof start};
    PROCESS_INFORMATION started;
    char command[600];
    snprintf(command, sizeof command, "\"%s\" sleep", self);
    if (!CreateProcessA(NULL, command, NULL, NULL, FALSE, CREATE_NO_WINDOW, NULL, NULL, &start, &started)) exit(91);
    say("left %lu", started.dwProcessId);
}

int main(int count, char **words) {
    BOOL at_once = FALSE, late = FALSE, deaf = FALSE;
    int i;
    if (count == 2 && !strcmp(words[1], "sleep")) {
        Sleep(60000);
        return 0;
    }
    if (count == 3 && !strcmp(words[1], "alive")) { /* is there such a process? */
        HANDLE process = OpenProcess(SYNCHRONIZE, FALSE, (DWORD)atoi(words[2]));
        return process && WaitForSingleObject(process, 2000) == WAIT_TIMEOUT;
    }
    if (count < 3) return 92;
    for (i = 3; i < count; i++) {
        if (!strncmp(words[i], "file=", 5)) copy = fopen(words[i] + 5, "a");
        else if (!strcmp(words[i], "exit")) at_once = TRUE;
        else if (!strcmp(words[i], "late")) late = TRUE;
        else if (!strcmp(words[i], "deaf")) deaf = TRUE;
        else if (!strcmp(words[i], "leave")) leave_one(words[0]);
        else say("word %s", words[i]);
    }
    SetConsoleCtrlHandler(on_console_event, TRUE);
    if (at_once) return (int)strtoul(words[2], NULL, 0);
    if (late) {
        say("late");
        Sleep(1000);
    }
    SetEvent(open_event("IOCPD_READY_EVENT", EVENT_MODIFY_STATE));
    say("ready");
    WaitForSingleObject(open_event("IOCPD_STOP_EVENT", SYNCHRONIZE), 60000);
    if (deaf) Sleep(60000);
    say("draining");
    Sleep((DWORD)atoi(words[1]));
    say("drained");
    return (int)strtoul(words[2], NULL, 0);
}
