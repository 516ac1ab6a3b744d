/* launch.exe PROGRAM ARGUMENTS...: the part of wine.py that is a Windows program. It starts PROGRAM
 *
 *  - in a job that ends with this process, however it ends, so that no Windows process outlives wine.py;
 *  - with a hidden console, so that Ctrl-C events exist;
 *  - passing on CTRL_C_EVENT, which is what Wine makes of a SIGINT to this process;
 *  - and returns its exit code. That has 32 bits, a Linux one has 8: what doesn't fit is said on stderr and becomes 255, so
 *    that a crash (0xC0000005) doesn't look like a 5, nor 0x100 like success. What wine.py sees is the code ^ STATUS_MASK,
 *    so that it can tell a 0 of PROGRAM from the 0 with which Wine ends this process on an early Ctrl-C.
 */
#include <windows.h>

#include <stdio.h>

#define DIED_OF_CTRL_C 0xC000013A /* STATUS_CONTROL_C_EXIT */
#define STATUS_MASK 0xA5

static volatile HANDLE program;
static volatile HANDLE last_event; /* the thread in the program that handles it */
static volatile LONG events;

static BOOL WINAPI on_event(DWORD event) {
    /* Wine 8 can't raise an event in a console that it isn't attached to, so this does what the console host does: it runs
     * CtrlRoutine in the program. System libraries lie at the same address in every process. */
    void *routine = (void *)GetProcAddress(GetModuleHandleW(L"kernelbase.dll"), "CtrlRoutine");
    InterlockedIncrement(&events);
    if (routine && program)
        last_event = CreateRemoteThread(program, NULL, 0, (LPTHREAD_START_ROUTINE)routine, (void *)(ULONG_PTR)event, 0, NULL);
    return TRUE; /* this process goes on until the program has ended */
}

static WCHAR *arguments_of(WCHAR *command_line) {
    BOOL quoted = FALSE;
    while (*command_line && (quoted || (*command_line != ' ' && *command_line != '\t')))
        if (*command_line++ == '"') quoted = !quoted;
    while (*command_line == ' ' || *command_line == '\t') command_line++;
    return command_line;
}

int wmain(void) {
    STARTUPINFOW start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES};
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limit = {0};
    PROCESS_INFORMATION started;
    HANDLE job = CreateJobObjectW(NULL, NULL);
    WCHAR *command = arguments_of(GetCommandLineW());
    DWORD code, handled;
    int attempts = 3;

    SetConsoleCtrlHandler(on_event, TRUE);
    start.hStdInput = GetStdHandle(STD_INPUT_HANDLE);
    start.hStdOutput = GetStdHandle(STD_OUTPUT_HANDLE);
    start.hStdError = GetStdHandle(STD_ERROR_HANDLE);
    limit.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limit, sizeof limit);
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX); /* no windows */

    while (!CreateProcessW(NULL, command, NULL, NULL, TRUE, CREATE_NO_WINDOW | CREATE_SUSPENDED, NULL, NULL, &start, &started)) {
        DWORD error = GetLastError();
        /* Wine's word for "the Unix process died before it was a Windows process": see wine_limits.py */
        if (error == ERROR_INTERNAL_ERROR && --attempts > 0) continue;
        fprintf(stderr, "launch: cannot start %ls: error %lu\n", command, error);
        return 127 ^ STATUS_MASK;
    }
    if (!AssignProcessToJobObject(job, started.hProcess)) fprintf(stderr, "launch: no job: error %lu\n", GetLastError());
    program = started.hProcess;
    if (events) TerminateProcess(program, DIED_OF_CTRL_C); /* told to stop before it began */
    else ResumeThread(started.hThread);
    WaitForSingleObject(program, INFINITE);
    GetExitCodeProcess(program, &code);
    TerminateJobObject(job, 1); /* what it has left running */

    /* What Wine does by default on Ctrl-C is to exit with 0, which Windows does not, and which looks like success.
     * CtrlRoutine returns 1 when a handler has taken the event. */
    if (code == 0 && last_event && GetExitCodeThread(last_event, &handled) && handled != 1) code = DIED_OF_CTRL_C;
    if (code == DIED_OF_CTRL_C) code = 130;
    if (code > 255) {
        if (code != 0xFFFFFFFF) /* sys.exit(-1) is 255 on Linux too */
            fprintf(stderr, "launch: exit code %lu (0x%08lX) becomes 255\n", code, code);
        code = 255;
    }
    return (int)(code ^ STATUS_MASK);
}
